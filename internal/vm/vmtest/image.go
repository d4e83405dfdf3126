package vmtest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestimage"
)

// buildGuest makes the rootfs of the suite's guest and returns its path.
func buildGuest(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		testlane.Missing(t, "mke2fs (package e2fsprogs) is not installed")
	}
	image := filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := guestimage.Make(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return image
}

// GuestSpec returns the spec of a small VM with the suite's guest, for a driver's own tests. It lives in a folder of
// its own, which is removed after the test, and has a jail if the test runs as root.
func GuestSpec(t testing.TB, kernel string) vm.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm") // t.TempDir is too long for unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	rootfs := filepath.Join(dir, "rootfs.ext4")
	if err := copyFile(rootfs, buildGuest(t)); err != nil {
		t.Fatal(err)
	}
	spec := vm.Spec{ID: filepath.Base(dir), Dir: dir, Kernel: kernel, Rootfs: rootfs, VCPUs: 1, MemoryMiB: 128}
	if os.Geteuid() == 0 {
		spec.Jail = &vm.Jail{Owner: ownerOf(dir)}
	}
	return spec
}

// emptyFilesystem returns a rootfs without any program in it.
func emptyFilesystem(w *world) string {
	image := filepath.Join(w.root, "vm-empty.ext4")
	w.must(guestimage.MakeEmpty(w.ctx(), image))
	return image
}

func copyFile(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return target.Close()
}
