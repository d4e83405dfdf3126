package ram

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/memfd"
)

const size = 3*step + 5*pageSize

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guest maps memory in this process as a VMM maps a guest's: privately, from a file or from nothing.
func guest(t *testing.T, file *os.File, flags int) (Guest, []byte) {
	t.Helper()
	fd := -1
	if file != nil {
		fd = int(file.Fd())
	}
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(memory)) })
	return Guest{PID: os.Getpid(), Address: uint64(uintptr(unsafe.Pointer(&memory[0]))), Size: size}, memory
}

func write(memory []byte, at int, text string) { copy(memory[at:], text) }

// check saves the guest's memory and compares the file with it.
func check(t *testing.T, g Guest, memory []byte) (blocks int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "memory")
	must(t, Save(t.Context(), g, path))
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, memory) {
		t.Error("the file is not the memory")
	}
	info, err := os.Stat(path)
	must(t, err)
	runtime.KeepAlive(memory)
	return info.Sys().(*syscall.Stat_t).Blocks
}

// Memory that came from nothing: what was written is in the file, also at both ends of a step, and nothing else takes room.
func TestSaveAnonymous(t *testing.T) {
	g, memory := guest(t, nil, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	write(memory, 0, "first page")
	write(memory, step-1, "across two steps")
	write(memory, size-1, "x")
	memory[7*pageSize] = 1
	memory[7*pageSize] = 0       // written to, and zero
	if memory[9*pageSize] != 0 { // looked at
		t.Fatal("it is not zero")
	}
	if blocks := check(t, g, memory); blocks > 100 {
		t.Errorf("%d blocks are stored", blocks)
	}
}

// Memory that came from a file: what was not written to comes from there, what was set to zero does not, and the file stays.
func TestSaveOverBase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	base := bytes.Repeat([]byte("base"), size/4)
	clear(base[20*pageSize : 30*pageSize])
	must(t, os.WriteFile(path, base, 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	g, memory := guest(t, f, unix.MAP_PRIVATE)
	write(memory, 0, "changed")
	clear(memory[3*pageSize : 6*pageSize])
	write(memory, step-2, "four")
	write(memory, size-1, "x")
	must(t, os.Remove(path)) // the name may go
	check(t, g, memory)
	after := make([]byte, size)
	_, err = f.ReadAt(after, 0)
	must(t, err)
	if !bytes.Equal(base, after) {
		t.Error("the base was changed")
	}
}

// TestSaveBridges: pages that are near to each other are saved as one run, with what is between them, and nothing of that differs from the memory.
func TestSaveBridges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	base := bytes.Repeat([]byte("base"), size/4)
	clear(base[100*pageSize : 400*pageSize])
	must(t, os.WriteFile(path, base, 0o600))
	must(t, DigHoles(t.Context(), path))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	g, memory := guest(t, f, unix.MAP_PRIVATE)
	for _, page := range []int{0, 8, 17} {
		memory[page*pageSize] = 'x'
	}
	pages, err := openPagemap(g.PID)
	must(t, err)
	defer pages.Close()
	runs, err := pages.changed(g.Address, step)
	must(t, err)
	if want := []run{{0, 9 * pageSize}, {17 * pageSize, pageSize}}; !slices.Equal(runs, want) {
		t.Errorf("the runs are %v, want %v", runs, want)
	}
	for range 300 {
		memory[rand.IntN(size)] = byte(rand.IntN(2))
	}
	check(t, g, memory)
}

// A base that is named is taken for the file that is mapped, if there is one and it has the same size.
func TestSaveOverNamedBase(t *testing.T) {
	base := bytes.Repeat([]byte("base"), size/4)
	path := filepath.Join(t.TempDir(), "base")
	must(t, os.WriteFile(path, base, 0o600))
	mapped, err := memfd.Load(t.Context(), path)
	must(t, err)
	defer mapped.Close()
	g, memory := guest(t, mapped, unix.MAP_PRIVATE)
	g.Base = path
	write(memory, step-2, "four")
	check(t, g, memory)

	anonymous, _ := guest(t, nil, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	anonymous.Base = path
	must(t, os.Truncate(path, size-pageSize))
	gone := g
	gone.Base += "s"
	for name, c := range map[string]struct {
		guest Guest
		want  string
	}{"another size": {g, "bytes"}, "mapped from nothing": {anonymous, "no file"}, "no base": {gone, "no such file"}} {
		path := filepath.Join(t.TempDir(), "memory")
		if err := Save(t.Context(), c.guest, path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file is left: %v", name, err)
		}
	}
}

// What is no guest's memory is refused, and no file is left.
func TestSaveRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "base"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	private, _ := guest(t, nil, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	shared, _ := guest(t, f, unix.MAP_SHARED)
	part, _ := guest(t, f, unix.MAP_PRIVATE)
	part.Address += pageSize
	part.Size -= pageSize
	nowhere := Guest{PID: os.Getpid(), Address: 4096, Size: size}
	gone := private
	gone.PID = 1 << 22 // the kernel gives no pid as high: proc_sys_kernel(5), pid_max
	for name, c := range map[string]struct {
		guest Guest
		want  string
	}{
		"shared": {shared, "shared"}, "in the middle of a file": {part, "another place"}, "not mapped": {nowhere, errNotMapped.Error()}, "no process": {gone, "no such file"},
	} {
		path := filepath.Join(t.TempDir(), "memory")
		if err := Save(t.Context(), c.guest, path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file is left", name)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Save(ended, private, filepath.Join(t.TempDir(), "memory")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDigHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	text := make([]byte, size)
	write(text, 5*pageSize, "x")
	write(text, size-1, "y")
	must(t, os.WriteFile(path, text, 0o600))
	must(t, DigHoles(t.Context(), path))
	got, err := os.ReadFile(path)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; !bytes.Equal(got, text) || blocks > 100 {
		t.Errorf("%d blocks are stored; equal: %v", blocks, bytes.Equal(got, text))
	}
}
