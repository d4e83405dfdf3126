package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

var tester = &user.User{Name: "tester", UID: 54321, GID: 54322}

type fixture struct {
	testing.TB
	dir string // where archives are unpacked; beside it is what they must not touch
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	testlane.NeedRoot(t)
	f := &fixture{TB: t, dir: filepath.Join(t.TempDir(), "in")}
	f.must(os.Mkdir(f.dir, 0o755))
	f.must(os.WriteFile(f.at("../outside"), []byte("untouched"), 0o600))
	f.must(os.Mkdir(f.at("../folder"), 0o700))
	return f
}

func (f *fixture) at(path string) string { return filepath.Join(f.dir, path) }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// archive makes a tar stream; text is the content of regular files.
func archive(t testing.TB, text string, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(w, text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func reg(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }

func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }

func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func hard(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// outside checks that nothing beside the directory has changed.
func (f *fixture) outside() {
	f.Helper()
	text, err := os.ReadFile(f.at("../outside"))
	info, statErr := os.Stat(f.at("../outside"))
	if err != nil || statErr != nil || string(text) != "untouched" || info.Mode() != 0o600 || info.Sys().(*unixStat).Uid != 0 {
		f.Fatalf("outside holds %q, %v", text, err)
	}
	entries, err := os.ReadDir(f.at(".."))
	folder, folderErr := os.ReadDir(f.at("../folder"))
	if err != nil || folderErr != nil || len(entries) != 3 || len(folder) != 0 {
		f.Fatalf("outside are %v and %v", entries, folder)
	}
}

// clean checks that no temporary file is left.
func (f *fixture) clean() {
	f.Helper()
	f.must(filepath.WalkDir(f.dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), ".wrenn-") {
			f.Errorf("%s is left", path)
		}
		return err
	}))
}

// describe returns what there is below a directory in words.
func describe(t testing.TB, dir string) map[string]string {
	t.Helper()
	all, names := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d.%09d", stat.Mode, stat.Mtim.Sec, stat.Mtim.Nsec)
		switch {
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %q", content)
			if first := names[stat.Ino]; first != "" {
				text += " = " + first
			}
			names[stat.Ino] = name
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			text += " -> " + target
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What is packed and unpacked again is the same, and the user's.
func TestThereAndBack(t *testing.T) {
	f := newFixture(t)
	from := f.at("from")
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 255)
	for _, path := range []string{"a/b", "empty", filepath.Dir(long)} {
		f.must(os.MkdirAll(filepath.Join(from, path), 0o755))
	}
	for path, text := range map[string]string{"a/file": "text", "a/b/run": "#!", "none": "", long: "x", "a/ü\xff": "y", "large": strings.Repeat("z", 300_000)} {
		f.must(os.WriteFile(filepath.Join(from, path), []byte(text), 0o644))
	}
	f.must(os.Chmod(from+"/a/b/run", 0o751))
	f.must(unix.Chmod(from+"/none", 0o4755))
	f.must(os.Symlink("/nowhere", from+"/absolute"))
	f.must(os.Symlink("../a/./file", from+"/a/b/relative"))
	f.must(os.Link(from+"/a/file", from+"/a/b/second"))
	f.must(unix.Mkfifo(from+"/fifo", 0o620))
	stamp := []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 1_500_000_000, Nsec: 123_456_789}}
	for _, path := range []string{"a/file", "absolute", "a/b", "a", "fifo", "empty"} {
		f.must(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(from, path), stamp, unix.AT_SYMLINK_NOFOLLOW))
	}
	want := describe(t, from)
	socket, err := net.Listen("unix", from+"/socket")
	f.must(err)
	defer func() { _ = socket.Close() }()
	f.must(unix.Mknod(from+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))

	var b bytes.Buffer
	skipped, err := Pack(t.Context(), &b, from)
	if err != nil || skipped != 2 {
		t.Fatalf("skipped %d, error %v", skipped, err)
	}
	to := f.at("to")
	f.must(os.Mkdir(to, 0o755))
	count, err := Unpack(t.Context(), &b, to, tester)
	if err != nil || count != len(want) {
		t.Fatalf("%d entries, error %v", count, err)
	}
	if diff := cmp.Diff(want, describe(t, to)); diff != "" {
		t.Error(diff)
	}
	f.must(filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if info, err := os.Lstat(path); err != nil || path != to && info.Sys().(*unixStat).Uid != tester.UID {
			t.Errorf("%s is not the user's: %v", path, err)
		}
		return err
	}))
}

// An archive unpacked where something is already replaces files and links, and merges directories.
func TestReplace(t *testing.T) {
	f := newFixture(t)
	f.must(os.Mkdir(f.at("dir"), 0o700))
	f.must(os.WriteFile(f.at("dir/kept"), []byte("k"), 0o644))
	f.must(os.WriteFile(f.at("file"), []byte("long and old"), 0o600))
	f.must(os.Symlink("../outside", f.at("link")))
	f.must(os.Link(f.at("../outside"), f.at("hard")))
	in := archive(t, "new", dir("dir"), reg("dir/more"), reg("file"), reg("link"), reg("hard"), link("./dir/./kept", "x"), dir("./"), hard("again", "file"), hard("again", "file"), hard("./file", "file"))
	if _, err := Unpack(t.Context(), in, f.dir, tester); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dir/more", "file", "link", "hard", "again"} {
		if text, err := os.ReadFile(f.at(name)); err != nil || string(text) != "new" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if target, err := os.Readlink(f.at("dir/kept")); err != nil || target != "x" {
		t.Errorf("%q, %v", target, err)
	}
	f.must(os.RemoveAll(f.at("hard")))
	f.outside()
	f.clean()
}

func TestHostileArchives(t *testing.T) {
	device := tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}
	for name, c := range map[string]struct {
		headers []tar.Header
		entry   string
		text    string
	}{
		"parent":                       {[]tar.Header{reg("../outside")}, "../outside", `".."`},
		"hidden parent":                {[]tar.Header{reg("a/../../outside")}, "a/../../outside", `".."`},
		"parent of a directory":        {[]tar.Header{dir("..")}, "..", `".."`},
		"absolute":                     {[]tar.Header{reg("/tmp/x")}, "/tmp/x", "absolute"},
		"itself":                       {[]tar.Header{reg(".")}, ".", "replace the directory"},
		"itself as a link":             {[]tar.Header{link("./", "../folder")}, "./", "replace the directory"},
		"through a link":               {[]tar.Header{link("l", "../folder"), reg("l/x")}, "l/x", "symbolic link"},
		"through an absolute link":     {[]tar.Header{link("l", "/"), reg("l/tmp/x")}, "l/tmp/x", "symbolic link"},
		"through a link that is below": {[]tar.Header{dir("d"), link("l", "d"), reg("l/x")}, "l/x", "symbolic link"},
		"through two links":            {[]tar.Header{link("a", ".."), link("b", "a/folder"), reg("b/x")}, "b/x", "symbolic link"},
		"directory through a link":     {[]tar.Header{link("l", ".."), dir("l/folder/new")}, "l/folder/new", "symbolic link"},
		"parents through a link":       {[]tar.Header{link("l", ".."), reg("l/folder/a/b/c")}, "l/folder/a/b/c", "symbolic link"},
		"directory on a link":          {[]tar.Header{link("l", "../folder"), dir("l")}, "l", "not a directory"},
		"link after its directory":     {[]tar.Header{dir("l"), reg("l/x"), link("l", "../folder")}, "l", "is a directory"},
		"link through a link":          {[]tar.Header{link("l", ".."), link("l/folder/x", "y")}, "l/folder/x", "symbolic link"},
		"hard link outside":            {[]tar.Header{hard("h", "../outside")}, "h", `".."`},
		"absolute hard link":           {[]tar.Header{hard("h", "/etc/passwd")}, "h", "absolute"},
		"hard link through a link":     {[]tar.Header{link("l", ".."), hard("h", "l/outside")}, "h", "symbolic link"},
		"hard link to nothing":         {[]tar.Header{hard("h", "missing")}, "h", "no such file"},
		"device":                       {[]tar.Header{device}, "disk", "device"},
		"unknown type":                 {[]tar.Header{{Typeflag: 'Z', Name: "z"}}, "z", "unknown type"},
		"below a file":                 {[]tar.Header{reg("f"), reg("f/x")}, "f/x", "not a directory"},
		"file on a directory":          {[]tar.Header{dir("d"), reg("d")}, "d", "is a directory"},
		"long name":                    {[]tar.Header{reg(strings.Repeat("n", 256))}, strings.Repeat("n", 256), "too long"},
		"long path":                    {[]tar.Header{reg(strings.Repeat("n/", 3000) + "n")}, strings.Repeat("n/", 3000) + "n", "longer"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			before := len(c.headers) - 1
			count, err := Unpack(t.Context(), archive(t, "hostile", c.headers...), f.dir, tester)
			var at *Error
			if !errors.As(err, &at) || at.Entry != c.entry || !strings.Contains(err.Error(), c.text) || count != before {
				t.Errorf("after %d entries: %.200v, want %q of %.40q", count, err, c.text, c.entry)
			}
			f.outside()
			f.clean()
		})
	}
}

// A hard link to a symbolic link is one, and writing to its name does not follow it.
func TestHardLinkToLink(t *testing.T) {
	f := newFixture(t)
	if _, err := Unpack(t.Context(), archive(t, "x", link("l", "../outside"), hard("h", "l"), reg("h")), f.dir, tester); err != nil {
		t.Fatal(err)
	}
	f.outside()
}

// A directory that is exchanged for a link while entries go into it leads nobody outside.
func TestExchangedDirectory(t *testing.T) {
	f := newFixture(t)
	stop, stopped := make(chan bool), make(chan bool)
	f.must(os.Symlink("../folder", f.at("swap")))
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, f.at("swap"), unix.AT_FDCWD, f.at("d"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for i := range 200 {
		in := archive(t, "x", dir("d"), dir("e"), reg(fmt.Sprintf("d/%d", i)), dir(fmt.Sprintf("d/dir%d", i)), reg(fmt.Sprintf("d/deep/%d/x", i)))
		_, _ = Unpack(t.Context(), in, f.dir, tester) // fails now and then
	}
	close(stop)
	<-stopped
	f.outside()
}

func TestBrokenArchives(t *testing.T) {
	f := newFixture(t)
	whole := archive(t, strings.Repeat("x", 5000), reg("first"), reg("second")).Bytes()
	for _, n := range []int{100, 700, 512 + 5120 + 600} {
		_, err := Unpack(t.Context(), bytes.NewReader(whole[:n]), f.dir, tester)
		if !errors.Is(err, ErrStream) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := Unpack(t.Context(), strings.NewReader(strings.Repeat("garbage ", 1000)), f.dir, tester); !errors.Is(err, ErrStream) {
		t.Errorf("garbage: %v", err)
	}
	if _, err := os.Stat(f.at("second")); err == nil {
		t.Error("half a file was stored")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Unpack(ctx, bytes.NewReader(whole), f.dir, tester); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := Pack(ctx, io.Discard, f.dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	f.clean()
}

// Of the file that does not fit nothing is left.
func TestFullDisk(t *testing.T) {
	f := newFixture(t)
	f.must(os.Mkdir(f.at("small"), 0o755))
	f.must(unix.Mount("tmpfs", f.at("small"), "tmpfs", 0, "size=256k"))
	defer func() { _ = unix.Unmount(f.at("small"), unix.MNT_DETACH) }()
	in := archive(t, strings.Repeat("x", 100_000), reg("1"), reg("2"), reg("3"))
	count, err := Unpack(t.Context(), in, f.at("small"), tester)
	var at *Error
	if !errors.As(err, &at) || !errors.Is(err, unix.ENOSPC) || at.Entry != "3" || count != 2 {
		t.Errorf("after %d entries: %v", count, err)
	}
	if _, err := os.Stat(f.at("small/3")); err == nil {
		t.Error("half a file was stored")
	}
	f.clean()
}

// The kernel's file systems are packed as empty directories; /proc alone would be endless.
func TestPseudoFileSystems(t *testing.T) {
	f := newFixture(t)
	f.must(os.Mkdir(f.at("proc"), 0o755))
	f.must(unix.Mount("proc", f.at("proc"), "proc", 0, ""))
	defer func() { _ = unix.Unmount(f.at("proc"), unix.MNT_DETACH) }()
	var b bytes.Buffer
	if _, err := Pack(t.Context(), &b, f.dir); err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(&b)
	h, err := in.Next()
	f.must(err)
	if more, err := in.Next(); h.Name != "proc/" || err != io.EOF {
		t.Errorf("%v, then %v", h, more)
	}
}

// A file that gets shorter while it is packed is an error, not an archive.
func TestShrinkingFile(t *testing.T) {
	f := newFixture(t)
	f.must(os.WriteFile(f.at("file"), make([]byte, 10<<20), 0o644))
	_, err := Pack(t.Context(), writerFunc(func(p []byte) (int, error) {
		return len(p), os.Truncate(f.at("file"), 1<<20)
	}), f.dir)
	var at *Error
	if !errors.As(err, &at) || at.Entry != "file" || !strings.Contains(err.Error(), "shrank") {
		t.Errorf("error %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// Times of directories are set after what is in them; those of an archive in another order may be lost, no more.
func TestDirectoryTimes(t *testing.T) {
	f := newFixture(t)
	at := func(h tar.Header, second int64) tar.Header {
		h.ModTime = time.Unix(second, 0)
		return h
	}
	in := archive(t, "x", at(dir("a"), 100), at(dir("a/b"), 200), at(reg("a/b/c"), 300), at(reg("a/d"), 400), at(reg("ab"), 500))
	if _, err := Unpack(t.Context(), in, f.dir, tester); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"a": 100, "a/b": 200, "a/b/c": 300, "a/d": 400, "ab": 500} {
		if info, err := os.Stat(f.at(name)); err != nil || info.ModTime().Unix() != want {
			t.Errorf("%s: %v, %v", name, info.ModTime(), err)
		}
	}
}
