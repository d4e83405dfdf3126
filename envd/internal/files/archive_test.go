package files

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func (f *fixture) archive(method, path string, body io.Reader, header ...string) (*http.Response, string) {
	f.Helper()
	return f.request(method, "/archive", at(path), body, header...)
}

func TestArchive(t *testing.T) {
	f := newFixture(t)
	f.mustPut("from/a/file", "text")
	f.link("a/file", "from/link")
	if err := unix.Mknod(f.home+"/from/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	for _, coding := range []string{"identity", "gzip"} {
		resp, body := f.archive("GET", "from", nil, "Accept-Encoding", coding)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-tar" || resp.Trailer.Get(HeaderSkipped) != "1" {
			t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, resp.Trailer)
		}
		if got := strings.TrimPrefix(resp.Header.Get("Content-Encoding"), "identity"); got != strings.TrimPrefix(coding, "identity") {
			t.Errorf("encoding %q", got)
		}
		resp, text := f.archive("POST", "to/"+coding, strings.NewReader(body), "Content-Encoding", coding)
		if resp.StatusCode != 204 {
			t.Fatalf("%d %s", resp.StatusCode, text)
		}
		f.content(f.home+"/to/"+coding+"/link", "text")
		f.owned(f.home+"/to/"+coding+"/a/file", testerUID, 0o644)
		f.owned(f.home+"/to", testerUID, 0o755)
	}
	resp, body := f.archive("HEAD", "from", nil)
	if resp.StatusCode != 200 || body != "" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func TestArchiveErrors(t *testing.T) {
	f := newFixture(t)
	f.mustPut("file", "text")
	for path, want := range map[string]struct {
		status int
		text   string
	}{"missing": {404, "does not exist"}, "file": {400, "is not a directory"}, "": {400, "a path is required"}} {
		resp, body := f.archive("GET", path, nil)
		f.refused(resp, body, want.status, want.text)
	}
	resp, body := f.archive("GET", "~", nil, "Accept-Encoding", "identity;q=0")
	f.refused(resp, body, 406, "no acceptable encoding")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"good", "../bad"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	resp, body = f.archive("POST", "to", &b)
	f.refused(resp, body, 400, `entry '../bad': refused: its name has ".."; 1 entries came before`)
	resp, body = f.archive("POST", "to", strings.NewReader(strings.Repeat("garbage ", 1000)))
	f.refused(resp, body, 400, "malformed or incomplete archive")
	resp, body = f.archive("POST", "file", &b)
	f.refused(resp, body, 400, "not a directory")
	resp, body = f.archive("POST", "to", &b, "Content-Encoding", "zstd")
	f.refused(resp, body, 415, "zstd")
}

func TestArchiveDiskFull(t *testing.T) {
	f := newFixture(t)
	f.mkdir("small")
	dir := filepath.Join(f.home, "small")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	f.mustPut("from/large", strings.Repeat("x", 2<<20))
	_, body := f.archive("GET", "from", nil)
	resp, text := f.archive("POST", "small", strings.NewReader(body))
	f.refused(resp, text, 507, "entry 'large': not enough disk space available")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestChmod(t *testing.T) {
	f := newFixture(t)
	f.mustPut("dir/file", "text")
	chmod := func(query ...string) (*http.Response, string) {
		values := url.Values{}
		for i := 0; i < len(query); i += 2 {
			values.Set(query[i], query[i+1])
		}
		return f.request("POST", "/chmod", values, nil)
	}
	if resp, text := chmod("path", "dir", "mode", "0700", "recursive", "true"); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	f.owned(f.home+"/dir/file", testerUID, 0o700)
	if resp, text := chmod("path", "dir", "mode", "0755"); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	f.owned(f.home+"/dir/file", testerUID, 0o700)
	resp, text := chmod("path", "missing", "mode", "0755")
	f.refused(resp, text, 404, "file not found")
	resp, text = chmod("path", "dir", "mode", "rwx")
	f.refused(resp, text, 400, "octal")
	resp, text = chmod("path", "dir")
	f.refused(resp, text, 400, "octal")
	resp, text = chmod("path", "dir", "mode", "0", "recursive", "perhaps")
	f.refused(resp, text, 400, "recursive")
	resp, text = chmod("path", "dir/file/x", "mode", "0")
	f.refused(resp, text, 400, "not a directory")
}

// allocated returns how much memory f allocates, on both sides of the connection.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A file of 5 GiB goes out, into an archive and out of it, and one of 256 MiB in, in a small part of that.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 15 GiB")
	}
	const size, limit = 5 << 30, 64 << 20 // all that is allocated on the way, freed or not
	f := newFixture(t)
	f.mkdir("from")
	path := f.home + "/from/large"
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Skipf("no file of 5 GiB here: %v", err)
	}
	f.client.Timeout = 0
	get := func(route, path string) io.ReadCloser {
		req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+route+"?"+at(path).Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.client.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%v, %v", resp, err)
		}
		return resp.Body
	}
	for name, transfer := range map[string]func(){
		"download": func() {
			body := get("/files", path)
			defer func() { _ = body.Close() }()
			if n, err := io.Copy(io.Discard, body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		},
		"archive": func() {
			body := get("/archive", "from")
			defer func() { _ = body.Close() }()
			if resp, text := f.archive("POST", "to", body); resp.StatusCode != 204 {
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		},
		"upload": func() {
			body := io.LimitReader(endless{}, 256<<20)
			if resp, text := f.do("POST", at("upload"), body, "Content-Type", "application/octet-stream"); resp.StatusCode != 200 {
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		},
	} {
		if n := allocated(transfer); n > limit {
			t.Errorf("%s allocates %d MiB", name, n>>20)
		}
	}
	var stat unix.Stat_t
	if err := unix.Stat(f.home+"/to/large", &stat); err != nil || stat.Size != size || stat.Blocks > 1000 {
		t.Errorf("%d bytes in %d blocks, %v", stat.Size, stat.Blocks, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
