package files

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (f *fixture) mkdir(path string) {
	f.Helper()
	if err := os.Mkdir(filepath.Join(f.home, path), 0o755); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) link(target, path string) {
	f.Helper()
	if err := os.Symlink(target, filepath.Join(f.home, path)); err != nil {
		f.Fatal(err)
	}
}

func TestNotAFile(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	f.mustPut("plain", "text")
	f.link("dir", "to-dir")
	f.link("missing", "dangling")
	f.link("loop2", "loop1")
	f.link("loop1", "loop2")
	if err := unix.Mkfifo(f.home+"/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	f.link("fifo", "to-fifo")
	// A device of the test's own: one of the machine's could be lost to a fault in what is tested.
	if err := unix.Mknod(f.home+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	f.link("null", "to-null")
	for path, want := range map[string]struct {
		get, put int
		text     string
	}{
		"":                                {400, 400, "required"},
		"a\x00b":                          {400, 400, "NUL"},
		strings.Repeat("x/", 3000):        {400, 400, "longer"},
		"dir/" + strings.Repeat("n", 256): {400, 400, "too long"},
		"/":                               {400, 400, "directory"},
		"dir":                             {400, 400, "is a directory"},
		"to-dir":                          {400, 400, "is a directory"},
		"loop1":                           {400, 400, "symbolic links"},
		"plain/below":                     {400, 400, "not a directory"},
		"fifo":                            {400, 400, "not a regular file"},
		"to-fifo":                         {400, 400, "not a regular file"},
		"null":                            {400, 400, "not a regular file"},
		"to-null":                         {400, 400, "not a regular file"},
	} {
		resp, body := f.get(path)
		f.refused(resp, body, want.get, want.text)
		resp, body = f.put(path, "x")
		f.refused(resp, body, want.put, want.text)
	}
	for _, path := range []string{"missing", "missing/below", "dangling", "/proc/1/nothing"} {
		resp, body := f.get(path)
		f.refused(resp, body, 404, "does not exist")
	}
	f.clean()
}

// A write to a symbolic link changes what it leads to, wherever that is.
func TestWriteThroughLinks(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	f.mkdir("dir/deep")
	f.mustPut("dir/target", "old")
	f.link("dir/target", "link")
	f.link("link", "second")
	f.link("made/later", "dangling")
	f.link("dir/deep", "folder")
	f.link("folder/../beside", "through")
	f.link(f.home+"/absolute-target", "absolute")
	for path, want := range map[string]string{
		"second": "dir/target", "dangling": "made/later", "folder/new": "dir/deep/new",
		"through": "dir/beside", "absolute": "absolute-target",
	} {
		f.mustPut(path, "through "+path)
		f.content(filepath.Join(f.home, want), "through "+path)
		_, got := f.get(path)
		if got != "through "+path {
			t.Errorf("%s reads %q", path, got)
		}
	}
	for _, path := range []string{"link", "second", "dangling", "folder", "through", "absolute"} {
		if info, err := os.Lstat(filepath.Join(f.home, path)); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s is no link any more: %v", path, err)
		}
	}
	f.owned(f.home+"/made", testerUID, 0o755)
	f.clean()
}

func TestKernelFiles(t *testing.T) {
	f := newFixture(t)
	want, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	if resp, got := f.get("/proc/version"); got != string(want) || resp.ContentLength != int64(len(want)) {
		t.Errorf("%q, length %d", got, resp.ContentLength)
	}
	if _, got := f.get("/proc/version", "Range", "bytes=0-4"); got != string(want[:5]) {
		t.Errorf("%q", got)
	}
	if want, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled"); err == nil { // says it has 4096 bytes
		if _, got := f.get("/sys/kernel/mm/transparent_hugepage/enabled"); got != string(want) {
			t.Errorf("%q", got)
		}
	}
	large, err := os.ReadFile("/proc/kallsyms")
	if err != nil || len(large) < 100_000 {
		t.Skip("no /proc file here is large")
	}
	if resp, got := f.get("/proc/kallsyms"); got != string(large) || resp.StatusCode != 200 {
		t.Errorf("%d bytes, want %d", len(got), len(large))
	}
	resp, body := f.put("/proc/version", "x")
	if resp.StatusCode < 400 || !strings.Contains(body, `"message"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, _ := f.get("/proc/self/mem"); resp.StatusCode != 500 { // a read at 0 fails with EIO
		t.Errorf("status %d", resp.StatusCode)
	}
}

// A file of which the kernel has nothing to say yet ends there, and does not hang.
func TestFileThatWouldWait(t *testing.T) {
	f := newFixture(t)
	file, err := os.OpenFile("/proc/kmsg", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no /proc/kmsg: %v", err)
	}
	_ = file.Close()
	if resp, _ := f.get("/proc/kmsg"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestDiskFull(t *testing.T) {
	f := newFixture(t)
	f.mkdir("small")
	dir := filepath.Join(f.home, "small")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	f.mustPut("small/file", "old")
	for name, body := range map[string]io.Reader{
		"known length":   strings.NewReader(strings.Repeat("x", 2<<20)),
		"unknown length": io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20))),
	} {
		resp, text := f.do("POST", at("small/file"), body, "Content-Type", "application/octet-stream")
		f.refused(resp, text, 507, "not enough disk space")
		f.content(dir+"/file", "old")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	f.clean()
	resp, text := f.do("POST", at("small/new/folders/file"), strings.NewReader(strings.Repeat("x", 2<<20)), "Content-Type", "application/octet-stream")
	f.refused(resp, text, 507, "not enough disk space")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	resp, text = f.put("small/file", "x")
	f.refused(resp, text, 403, "read-only")
}

// A file that shrinks while it is sent breaks the connection; the caller does not take the part for the whole.
func TestShrinkingFile(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testShrinkingFile(t, "identity") })
	t.Run("compressed", func(t *testing.T) { testShrinkingFile(t, "gzip") })
}

func testShrinkingFile(t *testing.T, coding string) {
	f := newFixture(t)
	path := filepath.Join(f.home, "file")
	content := make([]byte, 64<<20)                  // more than socket buffers hold
	_, _ = rand.NewChaCha8([32]byte{}).Read(content) // it never fails
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", f.url+"/files?"+url.Values{"path": {path}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", coding)
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

// A tree of links, however twisted, is followed to an end, and to the one that the kernel finds.
func FuzzFollowLinks(f *testing.F) {
	f.Add("b", "c", "../a")
	f.Add("d/../b", "/", ".")
	f.Add("a", "", "d/d/d")
	f.Fuzz(func(t *testing.T, one, two, three string) {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/d", 0o755); err != nil {
			t.Fatal(err)
		}
		for path, target := range map[string]string{"a": one, "b": two, "d/c": three} {
			if strings.HasPrefix(target, "/") {
				target = dir + target // stay inside
			}
			_ = os.Symlink(target, filepath.Join(dir, path)) // an impossible one is not there
		}
		for _, path := range []string{"a", "b", "d/c"} {
			path = filepath.Join(dir, path)
			want, statErr := os.Stat(path)
			got, err := followLinks(path)
			if statErr != nil {
				continue
			}
			info, lstatErr := os.Lstat(got)
			if err != nil || lstatErr != nil || !os.SameFile(want, info) {
				t.Errorf("%q, %q, %q: %s leads to %q: %v, %v", one, two, three, path, got, err, lstatErr)
			}
		}
	})
}
