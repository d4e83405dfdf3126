package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func TestWriteFileReplacesWholeAndSetsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	for _, content := range []string{"a longer first content", "second", ""} {
		if err := durable.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, content)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v, %v; want 0640 whatever the umask", info.Mode(), err)
	}
	wantNames(t, filepath.Dir(path), "record")
}

func TestWriteFileFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	if err := durable.WriteFile(filepath.Join(dir, "no", "record"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "record", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "record"), nil, 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	wantNames(t, dir, "record")
}

func TestJSONRoundTrip(t *testing.T) {
	type record struct {
		Slot int               `json:"slot"`
		Env  map[string]string `json:"env"`
	}
	path := filepath.Join(t.TempDir(), "record.json")
	var got record
	if err := durable.ReadJSON(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v, want fs.ErrNotExist", err)
	}
	if err := durable.WriteJSON(path, record{7, map[string]string{"a": "b"}}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.ReadJSON(path, &got); err != nil || got.Slot != 7 || got.Env["a"] != "b" {
		t.Errorf("read back %+v, %v", got, err)
	}
	if err := durable.NoteJSON(path, record{8, nil}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.ReadJSON(path, &got); err != nil || got.Slot != 8 {
		t.Errorf("noted %+v, %v", got, err)
	}
	if err := durable.WriteJSON(path, make(chan int), 0o600); err == nil {
		t.Error("a channel was encoded")
	}
	if err := durable.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.ReadJSON(path, &got); err == nil || !bytes.Contains([]byte(err.Error()), []byte(path)) {
		t.Errorf("broken: %v, want an error that names the file", err)
	}
	if err := os.Truncate(path, 65<<20); err != nil { // sparse
		t.Fatal(err)
	}
	if err := durable.ReadJSON(path, &got); err == nil || !bytes.Contains([]byte(err.Error()), []byte("longer than")) {
		t.Errorf("an endless file: %v", err)
	}
}

func TestSymlinkReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "current")
	for _, target := range []string{"a", "b"} {
		if err := durable.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("link to %q, %v; want %q", got, err, target)
		}
	}
	wantNames(t, filepath.Dir(path), "current")
}

func TestRemoveAllAndSweep(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "sb-00000001")
	if err := os.MkdirAll(filepath.Join(tree, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(tree, "run", "console"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := durable.RemoveAll(tree); err != nil {
			t.Fatal(err)
		}
		wantNames(t, dir)
	}
	if err := durable.RemoveAll(filepath.Join(dir, "no", "such")); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	left, err := durable.Temp(filepath.Join(dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, filepath.Base(left))
	if err := errors.Join(durable.Sweep(dir), durable.Sweep(filepath.Join(dir, "none"))); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir)
}

// A file system without room: the old content stays, and no litter takes what room there is.
func TestFullDisk(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		testlane.Missing(t, "cannot mount a tmpfs: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	path := filepath.Join(dir, "record")
	if err := durable.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := durable.WriteFile(path, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("1 MiB onto 64 KiB: %v, want ENOSPC", err)
		}
		wantFile(t, path, "old")
		wantNames(t, dir, "record")
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Errorf("small write after the failed ones: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v, want ENOSPC", err)
	}
	if err := durable.RemoveAll(filepath.Join(dir, "filler")); err != nil {
		t.Errorf("removing from a full disk: %v", err)
	}
	wantNames(t, dir, "record")
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if len(got) != len(want) {
		t.Fatalf("%s holds %q, want %q", dir, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s holds %q, want %q", dir, got, want)
		}
	}
}
