package clone

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// TestReadAhead: what a file has is in memory soon, holes aside, and not more of it than was asked for.
func TestReadAhead(t *testing.T) {
	const mib = 1 << 20
	dir, err := os.MkdirTemp("/var/tmp", "wrenn-clone-") // a disk, where a temporary folder may lie in memory
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "memory")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{2 * mib, 40 * mib, 80 * mib} { // data of a MiB each, between holes
		if _, err := f.WriteAt(bytes.Repeat([]byte("x"), mib), at); err != nil {
			t.Fatal(err)
		}
	}
	resident := func(at int64) (pages int) {
		t.Helper()
		memory, err := unix.Mmap(int(f.Fd()), at, mib, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Munmap(memory) }()
		in := make([]byte, mib/os.Getpagesize())
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), mib, uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
			t.Fatal(errno)
		}
		for _, page := range in {
			pages += int(page & 1)
		}
		return pages
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if n := resident(2*mib) + resident(40*mib) + resident(80*mib); n > 0 {
		testlane.Missing(t, "/var/tmp on a disk")
	}
	if err := ReadAhead(path, 3*mib/2); err != nil {
		t.Fatal(err)
	}
	whole := mib / os.Getpagesize()
	for deadline := time.Now().Add(time.Minute); resident(2*mib) < whole || resident(40*mib) < whole/2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of %d pages each %d and %d are in memory", whole, resident(2*mib), resident(40*mib))
		}
	}
	if n := resident(40*mib) - whole/2 + resident(80*mib); n > 0 {
		t.Errorf("%d pages are in memory that were not asked for", n)
	}
	if err := ReadAhead(path+"x", mib); err == nil {
		t.Error("a file that is not there was read")
	}
}
