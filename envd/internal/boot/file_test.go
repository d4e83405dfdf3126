package boot

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSetFile(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("/nonexistent/stub-resolv.conf", dangling); err != nil {
		t.Fatal(err)
	}
	longer := filepath.Join(dir, "longer")
	if err := os.WriteFile(longer, []byte("more than the new content"), 0o644); err != nil {
		t.Fatal(err)
	}
	folder, pipe := filepath.Join(dir, "folder"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Mkdir(folder, 0o755), unix.Mkfifo(pipe, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dangling, longer, folder, pipe, filepath.Join(dir, "new")} {
		if err := setFile(path, []byte("content")); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		if got, _ := os.ReadFile(path); string(got) != "content" {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got, _ := os.ReadFile(elsewhere); string(got) != "untouched" {
		t.Errorf("the link was followed: %q", got)
	}
}

// A file that is right already is not written: its blocks stay shared with the image.
func TestSetFileLeavesWhatIsRight(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := setFile(path, []byte("content")); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
		t.Errorf("the file was replaced: %v, %v", after, err)
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, want := range []string{"", "content", strings.Repeat("more than one part\n", 1000)} {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFile(path); string(got) != want || err != nil {
			t.Errorf("%d bytes, %v, of %d", len(got), err, len(want))
		}
	}
	if _, err := readFile(path + "s"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

// One that is written over another is as long as that: to cut a file off is more than to write it.
func TestResolversAreOfOneLength(t *testing.T) {
	long := resolvers([]netip.Addr{netip.MustParseAddr("169.254.254.254"), netip.MustParseAddr("192.168.100.100")})
	short := resolvers([]netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("8.8.8.8")})
	if len(long) != len(short) || !bytes.HasPrefix(short, []byte("nameserver 1.1.1.1\nnameserver 8.8.8.8\n\n")) {
		t.Errorf("%q, %q", long, short)
	}
	if got, want := string(resolvers([]netip.Addr{netip.MustParseAddr("fd00:1234:5678:9abc:def0:1234:5678:9abc")})), "nameserver fd00:1234:5678:9abc:def0:1234:5678:9abc\n"; got != want {
		t.Errorf("%q", got)
	}
}
