package memfd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const size = 8 << 20

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	f, err := os.Create(path)
	must(t, err)
	content := bytes.Repeat([]byte("page"), 4096)
	_, err = f.WriteAt(content, 1<<20)
	must(t, errors.Join(err, f.Truncate(size), f.Close()))

	got, err := Load(t.Context(), path)
	must(t, err)
	defer got.Close()
	must(t, os.Remove(path)) // it is needed no more
	want := make([]byte, size)
	copy(want[1<<20:], content)
	data, err := io.ReadAll(io.NewSectionReader(got, 0, size+1))
	if err != nil || !bytes.Equal(data, want) {
		t.Fatalf("%d bytes that differ, %v", len(data), err)
	}

	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", got.Fd()), os.O_RDWR, 0)
	must(t, err)
	defer again.Close()
	if info, err := again.Stat(); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for what, change := range map[string]func() error{
		"write":  func() error { _, err := again.WriteAt([]byte("x"), 0); return err },
		"grow":   func() error { return again.Truncate(size + 4096) },
		"shrink": func() error { return again.Truncate(4096) },
		"punch": func() error {
			return unix.Fallocate(int(again.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 4096)
		},
		"map": func() error {
			_, err := unix.Mmap(int(again.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		},
		"unseal": func() error {
			_, err := unix.FcntlInt(again.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
			return err
		},
	} {
		if err := change(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", what, err)
		}
	}
	mapped, err := unix.Mmap(int(again.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(t, err)
	mapped[1<<20] = 'X'
	must(t, unix.Munmap(mapped))
	if n, err := got.ReadAt(data[:4], 1<<20); n != 4 || err != nil || string(data[:4]) != "page" {
		t.Errorf("a private mapping changed it: %q, %v", data[:n], err)
	}
}

func TestLoadFails(t *testing.T) {
	if _, err := Load(t.Context(), filepath.Join(t.TempDir(), "memory")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
