package files

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func (f *fixture) compose(destination string, sources ...string) (int, string) {
	f.Helper()
	body, err := json.Marshal(composeRequest{SourcePaths: sources, Destination: destination})
	if err != nil {
		f.Fatal(err)
	}
	resp, text := f.request("POST", "/files/compose", nil, strings.NewReader(string(body)), "Content-Type", "application/json")
	return resp.StatusCode, text
}

func TestCompose(t *testing.T) {
	f := newFixture(t)
	f.mustPut("1", "one ")
	f.mustPut("2", "")
	f.mustPut("3", strings.Repeat("three", 100_000))
	status, text := f.compose("new/all", "1", "~/2", f.home+"/3", "1")
	if status != 200 || strings.TrimSpace(text) != `{"path":"`+f.home+`/new/all","name":"all","type":"file"}` {
		t.Fatalf("%d %s", status, text)
	}
	f.content(f.home+"/new/all", "one "+strings.Repeat("three", 100_000)+"one ")
	f.owned(f.home+"/new/all", testerUID, 0o644)
	for _, source := range []string{"1", "2", "3"} {
		if _, err := os.Lstat(filepath.Join(f.home, source)); err == nil {
			t.Errorf("source %s is still there", source)
		}
	}
	f.clean()
}

func TestComposeErrors(t *testing.T) {
	f := newFixture(t)
	f.mustPut("1", "one")
	f.mustPut("all", "old")
	f.mkdir("dir")
	f.link("all", "link")
	for name, c := range map[string]struct {
		destination string
		sources     []string
		status      int
		text        string
	}{
		"no sources":       {"all", nil, 400, "source_paths must not be empty"},
		"no destination":   {"", []string{"1"}, 400, "destination is required"},
		"missing":          {"all", []string{"1", "missing"}, 404, "source file not found: missing"},
		"directory":        {"all", []string{"1", "dir"}, 400, "source path is not a regular file: dir"},
		"same":             {"all", []string{"1", "~/./all"}, 400, "cannot be the same as destination"},
		"same by a link":   {"all", []string{"1", "link"}, 400, "cannot be the same as destination"},
		"onto a directory": {"dir", []string{"1"}, 400, "is a directory"},
	} {
		status, text := f.compose(c.destination, c.sources...)
		if status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	resp, text := f.request("POST", "/files/compose", nil, strings.NewReader("]"))
	f.refused(resp, text, 400, "invalid request body")
	f.content(f.home+"/1", "one")
	f.content(f.home+"/all", "old")
	f.clean()
}

// Where there is no space, everything stays as it was.
func TestComposeDiskFull(t *testing.T) {
	f := newFixture(t)
	f.mkdir("small")
	dir := filepath.Join(f.home, "small")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	part := strings.Repeat("x", 400<<10)
	f.mustPut("small/1", part)
	f.mustPut("small/2", part)
	status, text := f.compose("small/all", "small/1", "small/2")
	if status != 507 || !strings.Contains(text, "not enough disk space available") {
		t.Errorf("%d %s", status, text)
	}
	f.content(dir+"/1", part)
	f.content(dir+"/2", part)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}
