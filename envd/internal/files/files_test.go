package files

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	envdhttp "github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

const testerUID, testerGID = 54321, 54322

// fixture is a handler on a real server, and an account whose home is a temporary folder.
type fixture struct {
	*testing.T
	url    string
	home   string
	client *http.Client
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOf(t, false)
}

// inBothWays runs test with and without large files going past the page cache.
func inBothWays(t *testing.T, test func(*testing.T, *fixture)) {
	for name, direct := range map[string]bool{"cached": false, "direct": true} {
		t.Run(name, func(t *testing.T) { test(t, newFixtureOf(t, direct)) })
	}
}

func newFixtureOf(t *testing.T, direct bool) *fixture {
	t.Helper()
	testlane.NeedRoot(t)
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	db := user.Database{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	text := fmt.Sprintf("root:x:0:0::/root:/bin/sh\ntester:x:%d:%d::%s:/bin/sh\n", testerUID, testerGID, home)
	if err := os.WriteFile(db.Passwd, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h := New(session.New("tester"), db, direct)
	mux := envdhttp.NewServeMux()
	h.Mount(mux)
	address := httptest.Serve(t, httptest.Server(mux))
	transport := &http.Transport{DisableCompression: true} // it would ask for gzip and hide that it did
	t.Cleanup(transport.CloseIdleConnections)
	return &fixture{T: t, url: "http://" + address, home: home, client: &http.Client{Transport: transport, Timeout: time.Minute}}
}

func (f *fixture) do(method string, query url.Values, body io.Reader, header ...string) (*http.Response, string) {
	f.Helper()
	return f.request(method, "/files", query, body, header...)
}

func (f *fixture) request(method, route string, query url.Values, body io.Reader, header ...string) (*http.Response, string) {
	f.Helper()
	req, err := http.NewRequest(method, f.url+route+"?"+query.Encode(), body)
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	return resp, string(text)
}

func at(path string) url.Values { return url.Values{"path": {path}} }

func (f *fixture) get(path string, header ...string) (*http.Response, string) {
	f.Helper()
	return f.do("GET", at(path), nil, header...)
}

func (f *fixture) put(path, text string) (*http.Response, string) {
	f.Helper()
	return f.do("POST", at(path), strings.NewReader(text), "Content-Type", "application/octet-stream")
}

func (f *fixture) mustPut(path, text string) {
	f.Helper()
	resp, body := f.put(path, text)
	var entries []entry
	if err := json.Unmarshal([]byte(body), &entries); err != nil || resp.StatusCode != 200 || len(entries) != 1 {
		f.Fatalf("put %s: %d %s", path, resp.StatusCode, body)
	}
}

// refused checks an error's status and body.
func (f *fixture) refused(resp *http.Response, body string, status int, text string) {
	f.Helper()
	var e struct {
		Code    int
		Message string
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || resp.StatusCode != status || e.Code != status || !strings.Contains(e.Message, text) {
		f.Errorf("%d %s, want %d with %q", resp.StatusCode, body, status, text)
	}
}

func (f *fixture) content(path, want string) {
	f.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		f.Errorf("%s holds %.80q, %v; want %.80q", path, got, err, want)
	}
}

// owned checks owner and mode.
func (f *fixture) owned(path string, uid uint32, mode os.FileMode) {
	f.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		f.Error(err)
		return
	}
	if got := info.Sys().(*syscall.Stat_t).Uid; got != uid || info.Mode().Perm() != mode {
		f.Errorf("%s belongs to %d and has mode %v, want %d and %v", path, got, info.Mode().Perm(), uid, mode)
	}
}

// clean checks that no temporary file is left.
func (f *fixture) clean() {
	f.Helper()
	err := filepath.WalkDir(f.home, func(path string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), ".wrenn-") {
			f.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		f.Error(err)
	}
}

func TestUploadAndDownload(t *testing.T) { inBothWays(t, uploadAndDownload) }

func uploadAndDownload(t *testing.T, f *fixture) {
	for _, text := range []string{"", "x", "bytes \x00\xff\r\n", strings.Repeat("large", 50_000), strings.Repeat("larger", 500_000)} {
		f.mustPut("a/b/file", text)
		f.content(f.home+"/a/b/file", text)
		resp, got := f.get("a/b/file")
		if got != text || resp.ContentLength != int64(len(text)) || resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%d bytes, length %d, type %q", len(got), resp.ContentLength, resp.Header.Get("Content-Type"))
		}
	}
	for _, dir := range []string{"/a", "/a/b"} {
		f.owned(f.home+dir, testerUID, 0o755)
	}
	f.owned(f.home+"/a/b/file", testerUID, 0o644)
	f.clean()
}

func TestEntry(t *testing.T) {
	f := newFixture(t)
	_, body := f.put("~/x/../name", "text")
	if want := fmt.Sprintf(`[{"path":"%s/name","name":"name","type":"file"}]`, f.home); strings.TrimSpace(body) != want {
		t.Errorf("%s, want %s", body, want)
	}
}

// What replaces a file keeps its mode and belongs to the user that wrote it.
func TestReplace(t *testing.T) {
	f := newFixture(t)
	path := filepath.Join(f.home, "script")
	if err := os.WriteFile(path, []byte("old and long"), 0o750); err != nil {
		t.Fatal(err)
	}
	f.mustPut(path, "new")
	f.content(path, "new")
	f.owned(path, testerUID, 0o750)
	query := url.Values{"path": {path}, "username": {"root"}}
	if resp, body := f.do("POST", query, strings.NewReader("roots"), "Content-Type", "application/octet-stream"); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	f.owned(path, 0, 0o750)
	f.clean()
}

func TestUserErrors(t *testing.T) {
	f := newFixture(t)
	query := url.Values{"path": {"x"}, "username": {"nobody-here"}}
	for method, header := range map[string]string{"GET": "", "POST": "application/octet-stream"} {
		resp, body := f.do(method, query, strings.NewReader(""), "Content-Type", header)
		f.refused(resp, body, 401, "nobody-here")
		if resp.Header.Get("Wrenn-Reason") != "unknown_user" {
			t.Errorf("%s: headers %v", method, resp.Header)
		}
	}
}

func TestRange(t *testing.T) { inBothWays(t, ranges) }

func ranges(t *testing.T, f *fixture) {
	for _, size := range []int{1000, 200_000, 3_000_000} { // below and above what is read at once, and large
		text := strings.Repeat("0123456789", size/10)
		f.mustPut("file", text)
		resp, got := f.get("file", "Range", "bytes=10-19")
		if resp.StatusCode != 206 || got != "0123456789" || resp.Header.Get("Content-Range") != fmt.Sprintf("bytes 10-19/%d", size) {
			t.Errorf("%d %q %v", resp.StatusCode, got, resp.Header)
		}
		if resp, got := f.get("file", "Range", "bytes=7-"); resp.StatusCode != 206 || got != text[7:] {
			t.Errorf("%d, %d bytes", resp.StatusCode, len(got))
		}
		if resp, _ := f.get("file", "Range", "bytes=9999999-"); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("status %d", resp.StatusCode)
		}
		if resp, got := f.do("HEAD", at("file"), nil); got != "" || resp.ContentLength != int64(size) {
			t.Errorf("HEAD: %d bytes, length %d", len(got), resp.ContentLength)
		}
	}
}

func multipartBody(t *testing.T, parts ...[3]string) (io.Reader, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, part := range parts {
		header := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name=%q; filename=%q`, part[0], part[1])}}
		p, err := w.CreatePart(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Write([]byte(part[2])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b, w.FormDataContentType()
}

func TestMultipart(t *testing.T) {
	f := newFixture(t)
	body, kind := multipartBody(t, [3]string{"file", f.home + "/dir/one", "1"}, [3]string{"note", "ignored", "x"}, [3]string{"file", "two", "2"})
	resp, text := f.do("POST", nil, body, "Content-Type", kind)
	if resp.StatusCode != 200 || strings.Count(text, `"type":"file"`) != 2 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	f.content(f.home+"/dir/one", "1")
	f.content(f.home+"/two", "2")
	body, kind = multipartBody(t, [3]string{"file", "elsewhere", "3"})
	if resp, text := f.do("POST", at("three"), body, "Content-Type", kind); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	f.content(f.home+"/three", "3")
	body, kind = multipartBody(t, [3]string{"file", "a", "4"}, [3]string{"file", "b", "5"})
	resp, text = f.do("POST", at("four"), body, "Content-Type", kind)
	f.refused(resp, text, 400, "several files")
	f.content(f.home+"/four", "4")
	body, kind = multipartBody(t, [3]string{"file", "", "6"})
	resp, text = f.do("POST", nil, body, "Content-Type", kind)
	f.refused(resp, text, 400, "path is required")
	f.clean()
}

func TestMalformedUploads(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		kind, body, text string
	}{
		{"", "x", "Content-Type"},
		{"text/plain", "x", "text/plain"},
		{"multipart/form-data", "x", "boundary"},
		{"multipart/form-data; boundary=b", "garbage", "multipart"},
		{"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"cut\"\r\n\r\nsome text", "broke off"},
		{"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\ntext", "multipart"},
	} {
		resp, text := f.do("POST", nil, strings.NewReader(c.body), "Content-Type", c.kind)
		f.refused(resp, text, 400, c.text)
	}
	parts := make([][3]string, maxParts+1)
	for i := range parts {
		parts[i] = [3]string{"note", "x", "y"}
	}
	body, kind := multipartBody(t, parts...)
	resp, text := f.do("POST", nil, body, "Content-Type", kind)
	f.refused(resp, text, 400, "1000 parts")
	resp, text = f.do("POST", at("x"), strings.NewReader("x"), "Content-Type", "application/octet-stream", "Content-Encoding", "br")
	f.refused(resp, text, 415, "gzip")
	f.clean()
	if _, err := os.Stat(f.home + "/cut"); err == nil {
		t.Error("half a file was stored")
	}
}

// An upload that breaks off leaves what was there before, and nothing else.
func TestBrokenUpload(t *testing.T) { inBothWays(t, brokenUpload) }

func brokenUpload(t *testing.T, f *fixture) {
	f.mustPut("file", "old")
	r, w := io.Pipe()
	req, err := http.NewRequest("POST", f.url+"/files?path=file", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	go func() {
		_, _ = w.Write(make([]byte, 3<<20))
		_ = w.CloseWithError(io.ErrClosedPipe)
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Error("the upload succeeded")
	}
	deadline := time.Now().Add(time.Minute)
	for {
		left, err := filepath.Glob(f.home + "/.wrenn-*")
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v is left", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.content(f.home+"/file", "old")
}
