package api

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestFiles(t *testing.T) {
	r := newRig(t, Limits{})
	files := "/v1/sandboxes/" + r.create().ID + "/files"
	content := make([]byte, 3<<20)
	rand.Read(content)
	dir := t.TempDir()
	for _, c := range []struct{ name, put, get, path string }{
		{"query", "?path=" + dir + "/a%20b", dir + "/a%20b", dir + "/a b"},
		{"URL", dir + "/x", "?path=" + dir + "/x", dir + "/x"},
		{"unicode", dir + "/%E6%BC%A2/%F0%9F%99%82", "?path=" + dir + "/漢/🙂", dir + "/漢/🙂"},
		{"escaped percent", dir + "/a%2525b", "?path=" + dir + "/a%2525b", dir + "/a%25b"},
		{"escaped slash", dir + "/a%2Fb", dir + "/a/b", dir + "/a/b"},
		{"dots in a name", dir + "/d/..b/c..", dir + "/d/..b/c..", dir + "/d/..b/c.."},
		{"two slashes", "/" + dir + "/a2", dir + "/a2", dir + "/a2"},
		{"user", dir + "/u?user=root", dir + "/u?user=root", dir + "/u"},
	} {
		written := decoded[writtenFile](t, r.call("PUT", files+c.put, string(content), "Content-Type", "application/octet-stream"), http.StatusOK)
		if written.Path != c.path || written.Size != int64(len(content)) {
			t.Errorf("%s: written %+v", c.name, written)
		}
		got := r.call("GET", files+c.get, "")
		if got.status != http.StatusOK || !bytes.Equal(got.body, content) {
			t.Errorf("%s: read %d, %d bytes", c.name, got.status, len(got.body))
		}
		if got.header.Get("Content-Type") != "application/octet-stream" || got.header.Get("Content-Length") != "3145728" {
			t.Errorf("%s: header %v", c.name, got.header)
		}
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "nonsense"} {
		decoded[writtenFile](t, r.call("PUT", files+dir+"/any", "x", "Content-Type", kind), http.StatusOK)
	}
	if written := decoded[writtenFile](t, r.call("PUT", files+dir+"/empty", ""), http.StatusOK); written.Size != 0 {
		t.Errorf("empty: %+v", written)
	}
	if got := r.call("GET", files+dir+"/empty", ""); got.status != http.StatusOK || len(got.body) != 0 {
		t.Errorf("empty: %d %q", got.status, got.body)
	}
}

// TestRelativePath: it is the guest that knows the user's home.
func TestRelativePath(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	r.sim.Script(sb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Method == http.MethodPost {
			_, _ = fmt.Fprintf(w, `[{"path":"/home/%s/%s"}]`, q.Get("username"), q.Get("path"))
			return
		}
		_, _ = io.WriteString(w, q.Get("path"))
	}))
	files := "/v1/sandboxes/" + sb + "/files?path=a/notes.txt&user=ann"
	if written := decoded[writtenFile](t, r.call("PUT", files, "x"), http.StatusOK); written.Path != "/home/ann/a/notes.txt" {
		t.Errorf("written %+v", written)
	}
	if got := r.call("GET", files, ""); string(got.body) != "a/notes.txt" {
		t.Errorf("read %q", got.body)
	}
}

// TestFilesInConstantMemory moves much more than may be held, in both directions.
func TestFilesInConstantMemory(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	files := r.server.URL + "/v1/sandboxes/" + sb + "/files"
	const size = 512 << 20
	const most = 64 << 20
	r.sim.Script(sb, bottomless(size))
	stop := make(chan struct{})
	peak := make(chan uint64)
	go func() { peak <- watchHeap(stop) }()

	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, files+"/sink", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	put.Header.Set(auth.Header, string(r.key))
	if written := decoded[writtenFile](t, r.send(put), http.StatusOK); written.Size != size {
		t.Errorf("written %+v", written)
	}
	get, err := http.NewRequestWithContext(t.Context(), http.MethodGet, files+"/zeros", nil)
	if err != nil {
		t.Fatal(err)
	}
	get.Header.Set(auth.Header, string(r.key))
	resp, err := http.DefaultClient.Do(get)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	close(stop)
	if p := <-peak; p > most {
		t.Errorf("the heap grew to %d MiB", p>>20)
	}
}

// bottomless is a guest that takes any file and keeps nothing of it, and whose files have size zero bytes.
func bottomless(size int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			_, _ = io.CopyN(w, zeros{}, size)
			return
		}
		if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, `[{"path":"/sink"}]`)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// watchHeap returns the most that was live on the heap beyond what was at the beginning.
func watchHeap(stop <-chan struct{}) uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	begin, most := m.HeapAlloc, uint64(0)
	for {
		select {
		case <-stop:
			return most
		case <-time.After(20 * time.Millisecond):
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > begin {
				most = max(most, m.HeapAlloc-begin)
			}
		}
	}
}

// TestBufferFor: whatever size a guest tells, a download holds no more than it needs and than there is for one.
func TestBufferFor(t *testing.T) {
	for size, want := range map[int64]int64{
		-1: copyBuffer, 0: 1, 1000: 1001, bulkBuffer - 1: bulkBuffer, bulkBuffer: bulkBuffer, math.MaxInt64: bulkBuffer,
	} {
		if got := bufferFor(size); got != want {
			t.Errorf("for %d bytes: %d, want %d", size, got, want)
		}
	}
}

// TestBrokenDownload: a file that cannot be read to its end does not look whole, whether or
// not its size is known.
func TestBrokenDownload(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	r.sim.Script(sb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("path") == "/broken" {
			w.Header().Set("Content-Length", "1000001")
		}
		_, _ = io.CopyN(w, zeros{}, 1000000)
		panic(http.ErrAbortHandler)
	}))
	files := r.server.URL + "/v1/sandboxes/" + sb + "/files"
	for _, path := range []string{"/broken", "/torn"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, files+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(auth.Header, string(r.key))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("%s: %d bytes came, and no error", path, n)
		}
		resp.Body.Close()
	}
}

// TestBrokenUpload: an upload whose client goes away leaves no file, with and without a
// Content-Length.
func TestBrokenUpload(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	dir := t.TempDir()
	for name, head := range map[string]string{
		"length":  "Content-Length: 1000000\r\n\r\npart of the file",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n",
	} {
		conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, "PUT /v1/sandboxes/"+sb+"/files"+dir+"/"+name+" HTTP/1.1\r\nHost: x\r\nX-API-Key: "+string(r.key)+"\r\n"+head)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	r.eventually("both are given up", func() bool { return strings.Count(r.log.String(), "ended early") == 2 })
	empty(t, dir)
}

// TestSlowClients: who sends nothing for the idle limit is cut off.
func TestSlowClients(t *testing.T) {
	r := newRig(t, Limits{Idle: 50 * time.Millisecond})
	sb := r.create().ID
	dir := t.TempDir()
	body, in := io.Pipe()
	defer in.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.server.URL+"/v1/sandboxes/"+sb+"/files"+dir+"/slow", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(auth.Header, string(r.key))
	go func() { _, _ = in.Write([]byte("begin")) }() // and no more
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a slow upload was answered with %d", resp.StatusCode)
		}
	}
	empty(t, dir)
}

func TestUploadBeyondTheLimitWithoutALength(t *testing.T) {
	r := newRig(t, Limits{Upload: 1000})
	dir := t.TempDir()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.server.URL+"/v1/sandboxes/"+r.create().ID+"/files"+dir+"/x", io.LimitReader(zeros{}, 1001))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(auth.Header, string(r.key))
	e := decoded[errorAnswer](t, r.send(req), http.StatusRequestEntityTooLarge).Error
	if e.Code != models.Invalid {
		t.Errorf("%+v", e)
	}
	empty(t, dir)
}

func TestAgentDiesDuringUpload(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	dir := t.TempDir()
	body, in := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.server.URL+"/v1/sandboxes/"+sb+"/files"+dir+"/x", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(auth.Header, string(r.key))
	go func() {
		_, _ = in.Write(make([]byte, 1<<20)) // fails when the server has had enough
		r.sim.Kill()
		for errors.Is(write(in), nil) { // until the server has had enough
		}
	}()
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("answered with %d", resp.StatusCode)
		}
	}
	body.Close()
	r.sim.Kill()
	r.sim.Restart()
	empty(t, dir)
}

func write(w io.Writer) error {
	_, err := w.Write(make([]byte, 64<<10))
	return err
}

// empty waits until nothing is in dir: an upload that was cut off is forgotten a moment later.
func empty(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a refused or broken upload left %v", left)
		}
	}
}
