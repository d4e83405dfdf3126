package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

const testerUID, testerGID = 54321, 54322

// fixture is a service, and an account whose home is a temporary folder.
type fixture struct {
	*testing.T
	*Service
	home string
	user *user.User
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	testlane.NeedRoot(t)
	dir := t.TempDir()
	f := &fixture{T: t, home: filepath.Join(dir, "home")}
	db := user.Database{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	f.writeFile("../passwd", fmt.Sprintf("root:x:0:0::/root:/bin/sh\ntester:x:%d:%d::%s:/bin/sh\nsecond:x:%d:1::/:\n", testerUID, testerGID, f.home, testerUID))
	f.writeFile("../group", fmt.Sprintf("root:x:0:\ntesters:x:%d:\n", testerGID))
	var err error
	if f.user, err = db.Lookup("tester"); err != nil {
		t.Fatal(err)
	}
	f.mkdir(".")
	f.Service = New(db)
	t.Cleanup(f.Close)
	return f
}

func (f *fixture) at(path string) string { return filepath.Join(f.home, path) }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) mkdir(path string) {
	f.Helper()
	f.must(os.MkdirAll(f.at(path), 0o755))
}

func (f *fixture) writeFile(path, text string) {
	f.Helper()
	f.must(os.WriteFile(f.at(path), []byte(text), 0o644))
}

func (f *fixture) link(target, path string) {
	f.Helper()
	f.must(os.Symlink(target, f.at(path)))
}

// fails checks an error's kind and text.
func (f *fixture) fails(err error, kind Kind, text string) {
	f.Helper()
	var coded *Error
	if !errors.As(err, &coded) || coded.Kind != kind || !strings.Contains(coded.Text, text) {
		f.Errorf("error %v, want kind %d with %q", err, kind, text)
	}
}

func TestStat(t *testing.T) {
	f := newFixture(t)
	f.writeFile("file", "12345")
	f.must(os.Chmod(f.at("file"), 0o640))
	f.must(os.Lchown(f.at("file"), testerUID, testerGID))
	modified := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	f.must(os.Chtimes(f.at("file"), modified, modified))
	f.must(unix.Setxattr(f.at("file"), "user.e2b.color", []byte("red"), 0))
	f.must(unix.Setxattr(f.at("file"), "user.e2b.binary", []byte{0xff}, 0))
	f.must(unix.Setxattr(f.at("file"), "user.other", []byte("x"), 0))
	got, err := f.Stat(f.at("file"))
	f.must(err)
	want := &Entry{
		Name: "file", Type: File, Path: f.at("file"), Size: 5, Mode: 0o640, Permissions: "-rw-r-----",
		Owner: "tester", Group: "testers", ModifiedTime: modified, Metadata: map[string]string{"color": "red"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	f.must(os.Lchown(f.at("file"), 54999, 54998))
	if got, err = f.Stat(f.at("file")); err != nil || got.Owner != "54999" || got.Group != "54998" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = f.Stat(f.at("missing"))
	f.fails(err, NotFound, "file not found: "+f.at("missing"))
	_, err = f.Stat(f.at("file/below"))
	f.fails(err, NotFound, "file not found")
	if root, err := f.Stat("/"); err != nil || root.Name != "/" || root.Type != Directory || root.Path != "/" {
		t.Errorf("%+v, %v", root, err)
	}
}

// A link is described as what it leads to, but for its own size, owner and permissions.
func TestStatLinks(t *testing.T) {
	f := newFixture(t)
	f.writeFile("file", "12345")
	f.mkdir("dir")
	f.must(unix.Chmod(f.at("dir"), 0o2750))
	f.link("file", "to-file")
	f.link("to-file", "twice")
	f.link("dir", "to-dir")
	f.link("nowhere", "dangling")
	f.link("loop", "loop")
	for name, want := range map[string]struct {
		kind   Type
		target string
		mode   uint32
	}{
		"to-file": {File, f.at("file"), 0o644}, "twice": {File, f.at("file"), 0o644}, "to-dir": {Directory, f.at("dir"), 0o2750},
		"dangling": {Symlink, "nowhere", 0}, "loop": {Symlink, "loop", 0},
	} {
		e, err := f.Stat(f.at(name))
		f.must(err)
		if e.Type != want.kind || e.SymlinkTarget == nil || *e.SymlinkTarget != want.target || e.Mode != want.mode || e.Permissions != "lrwxrwxrwx" {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// The text is that of ls.
func TestPermissions(t *testing.T) {
	for mode, want := range map[uint32]string{
		syscall.S_IFREG | 0o644: "-rw-r--r--", syscall.S_IFDIR | 0o1777: "drwxrwxrwt", syscall.S_IFDIR | 0o1770: "drwxrwx--T",
		syscall.S_IFREG | 0o4755: "-rwsr-xr-x", syscall.S_IFREG | 0o6600: "-rwS--S---", syscall.S_IFIFO | 0o600: "prw-------",
		syscall.S_IFCHR: "c---------", syscall.S_IFSOCK | 0o777: "srwxrwxrwx", syscall.S_IFBLK | 0o7777: "brwsrwsrwt",
	} {
		if got := permissions(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

func (f *fixture) list(path string, depth uint32) []string {
	f.Helper()
	entries, err := f.List(f.Context(), path, depth)
	f.must(err)
	var paths []string
	for _, e := range entries {
		paths = append(paths, strings.TrimPrefix(e.Path, path+"/"))
	}
	return paths
}

func TestList(t *testing.T) {
	f := newFixture(t)
	for _, dir := range []string{"top/b/c/d", "top/a"} {
		f.mkdir(dir)
	}
	f.writeFile("top/a/file", "")
	f.link("b", "top/link")
	f.link("top", "to-top")
	for depth, want := range map[uint32][]string{
		0: {"a", "b", "link"}, 1: {"a", "b", "link"}, 2: {"a", "a/file", "b", "b/c", "link"},
		1 << 31: {"a", "a/file", "b", "b/c", "b/c/d", "link"},
	} {
		for _, path := range []string{"top", "to-top"} {
			if diff := cmp.Diff(want, f.list(f.at(path), depth)); diff != "" {
				t.Errorf("%s, depth %d: %s", path, depth, diff)
			}
		}
	}
	f.writeFile("file", "")
	f.link("x", "x")
	_, err := f.List(t.Context(), f.at("file"), 1)
	f.fails(err, Invalid, "path is not a directory: "+f.at("file"))
	_, err = f.List(t.Context(), f.at("missing"), 1)
	f.fails(err, NotFound, "path not found: "+f.at("missing"))
	_, err = f.List(t.Context(), f.at("x"), 1)
	f.fails(err, Precondition, "cyclic symlink")
}

func TestListLimits(t *testing.T) {
	f := newFixture(t)
	f.mkdir("many")
	f.must(unix.Mount("tmpfs", f.at("many"), "tmpfs", 0, "size=64m,nr_inodes=0"))
	defer func() { _ = unix.Unmount(f.at("many"), unix.MNT_DETACH) }()
	f.writeFile("many/first", "")
	for i := range maxEntries - 1 {
		f.must(os.Link(f.at("many/first"), f.at(fmt.Sprintf("many/%d", i))))
	}
	if n := len(f.list(f.at("many"), 1)); n != maxEntries {
		t.Errorf("%d entries, want %d", n, maxEntries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.List(ctx, f.at("many"), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	f.must(os.Link(f.at("many/first"), f.at("many/more")))
	_, err := f.List(t.Context(), f.at("many"), 1)
	f.fails(err, Exhausted, "more than 50000 entries")
	_, err = f.List(t.Context(), f.home, 2)
	f.fails(err, Exhausted, "list fewer levels")
}

func TestMakeDir(t *testing.T) {
	f := newFixture(t)
	e, err := f.MakeDir(f.at("a/b"), f.user)
	f.must(err)
	if e.Type != Directory || e.Owner != "tester" || e.Mode != 0o755 || e.Path != f.at("a/b") {
		t.Errorf("%+v", e)
	}
	if above, err := f.Stat(f.at("a")); err != nil || above.Owner != "tester" || above.Group != "testers" {
		t.Errorf("%+v, %v", above, err)
	}
	_, err = f.MakeDir(f.at("a/b"), f.user)
	f.fails(err, Exists, "directory already exists: "+f.at("a/b"))
	f.writeFile("file", "")
	_, err = f.MakeDir(f.at("file"), f.user)
	f.fails(err, Invalid, "path already exists but it is not a directory")
	_, err = f.MakeDir(f.at("file/below"), f.user)
	f.fails(err, Invalid, "not a directory")
}

func TestMove(t *testing.T) {
	f := newFixture(t)
	f.writeFile("file", "text")
	e, err := f.Move(f.at("file"), f.at("new/dir/name"), f.user)
	f.must(err)
	if e.Name != "name" || e.Size != 4 {
		t.Errorf("%+v", e)
	}
	if dir, err := f.Stat(f.at("new/dir")); err != nil || dir.Owner != "tester" {
		t.Errorf("%+v, %v", dir, err)
	}
	_, err = f.Move(f.at("file"), f.at("elsewhere/x"), f.user)
	f.fails(err, NotFound, "source file not found: "+f.at("file"))
	if _, err := os.Lstat(f.at("elsewhere")); err == nil {
		t.Error("a move that failed made a directory")
	}
	_, err = f.Move(f.at("new"), f.at("new/dir/inside"), f.user)
	f.fails(err, Invalid, "is inside of")
	f.mkdir("full/below")
	_, err = f.Move(f.at("new"), f.at("full"), f.user)
	f.fails(err, Exists, "error renaming")
	f.mkdir("other")
	f.must(unix.Mount("tmpfs", f.at("other"), "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(f.at("other"), unix.MNT_DETACH) }()
	_, err = f.Move(f.at("new/dir/name"), f.at("other/name"), f.user)
	f.fails(err, Precondition, "cross-device")
}

func TestRemove(t *testing.T) {
	f := newFixture(t)
	f.mkdir("outside")
	f.mkdir("dir/deep/deeper")
	f.writeFile("outside/kept", "")
	f.link("../outside", "dir/link")
	f.must(f.Remove(f.at("dir")))
	if _, err := os.Lstat(f.at("dir")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	f.link("outside", "link")
	f.must(f.Remove(f.at("link")))
	if _, err := f.Stat(f.at("outside/kept")); err != nil {
		t.Error(err)
	}
	f.must(f.Remove(f.at("missing")))
	f.fails(f.Remove("/"), Invalid, "root directory")
	f.must(unix.Mount("tmpfs", f.at("outside"), "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(f.at("outside"), unix.MNT_DETACH) }()
	f.fails(f.Remove(f.at("outside")), Precondition, "error removing "+f.at("outside"))
}

func TestChmod(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir/below")
	f.writeFile("dir/below/file", "")
	f.writeFile("outside", "")
	f.link("../../outside", "dir/below/link")
	f.link("dir", "to-dir")
	f.must(unix.Mkfifo(f.at("dir/fifo"), 0o600)) // is not opened
	modes := func(want map[string]uint32) {
		t.Helper()
		for name, mode := range want {
			if e, err := f.Stat(f.at(name)); err != nil || e.Mode != mode {
				t.Errorf("%s: mode %o, want %o (%v)", name, e.Mode, mode, err)
			}
		}
	}
	f.must(Chmod(t.Context(), f.at("to-dir"), 0o1711, false))
	modes(map[string]uint32{"dir": 0o1711, "dir/below": 0o755})
	f.must(Chmod(t.Context(), f.at("to-dir"), 0o700, true))
	modes(map[string]uint32{"dir": 0o700, "dir/below": 0o700, "dir/below/file": 0o700, "dir/fifo": 0o700, "outside": 0o644})
	f.fails(Chmod(t.Context(), f.at("missing"), 0o700, true), NotFound, "file not found")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Chmod(ctx, f.at("dir"), 0o700, true); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	for text, want := range map[string]uint32{"0": 0, "755": 0o755, "0755": 0o755, "7777": 0o7777} {
		if mode, err := ParseMode(text); err != nil || mode != want {
			t.Errorf("%q: %o, %v", text, mode, err)
		}
	}
	for _, text := range []string{"", "8", "-1", "10000", "u+x", "0o755", "+1"} {
		if _, err := ParseMode(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// Directories may be nested without end: the change stops and says so.
func TestChmodTooDeep(t *testing.T) {
	f := newFixture(t)
	f.mkdir("d")
	defer func() { f.must(f.Remove(f.at("d"))) }()
	dir, err := unix.Open(f.at("d"), unix.O_DIRECTORY, 0)
	f.must(err)
	for range maxDepth + 1 {
		f.must(unix.Mkdirat(dir, "d", 0o755))
		next, err := unix.Openat(dir, "d", unix.O_DIRECTORY, 0)
		f.must(err)
		f.must(unix.Close(dir))
		dir = next
	}
	f.must(unix.Close(dir))
	f.fails(Chmod(t.Context(), f.at("d"), 0o700, true), Exhausted, "more than 1000 directories")
}

func TestMetadataLimits(t *testing.T) {
	f := newFixture(t)
	key := strings.Repeat("k", 246)
	for _, good := range []map[string]string{nil, {"a": ""}, {key: "v"}, {"a": strings.Repeat("v", 4096-len("user.e2b.a"))}, {"a b": " ~"}} {
		f.must(CheckMetadata(good))
	}
	for text, bad := range map[string]map[string]string{
		"empty": {"": "x"}, "246": {key + "k": "v"}, "4096": {"a": strings.Repeat("v", 4097-len("user.e2b.a"))},
		"ASCII": {"ü": "x"}, "value": {"x": "a\nb"}, "value ": {"x": "\x7f"},
	} {
		f.fails(CheckMetadata(bad), Invalid, strings.TrimSpace(text))
	}
}

// Whatever path is asked for, it becomes one that is absolute and clean, or an error.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{"", "~", "~/x", "~x", "~/../..", "/", "//", "a/../../..", "../../etc/passwd", "a\x00", "/..", ".", "\xff", "/a/./b//c/"} {
		f.Add(seed, "/home/user", "")
		f.Add(seed, "relative", "~")
	}
	f.Fuzz(func(t *testing.T, text, home, workdir string) {
		path, err := Resolve(text, &user.User{Home: home}, workdir)
		if err != nil {
			return
		}
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			t.Errorf("%q below %q became %q", text, home, path)
		}
		if filepath.IsAbs(text) && path != filepath.Clean(text) {
			t.Errorf("%q became %q", text, path)
		}
	})
}
