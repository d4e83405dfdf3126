package vmtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

const guestPackage = "github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guest"

// guestEnv names the guest's program where it was built before, for machines without Go.
const guestEnv = "WRENN_VMTEST_GUEST"

// buildGuest makes the rootfs of the suite's guest and returns its path. No mount is needed, nor root.
func buildGuest(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		testlane.Missing(t, "mke2fs (package e2fsprogs) is not installed")
	}
	tree := filepath.Join(t.TempDir(), "tree")
	program := filepath.Join(tree, "usr/local/bin/envd") // where every driver's init= points
	makeTree(t, tree)
	if built := os.Getenv(guestEnv); built != "" {
		if err := errors.Join(copyFile(program, built), os.Chmod(program, 0o755)); err != nil {
			t.Fatal(err)
		}
	} else {
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, guestPackage)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		run(t, build)
	}
	image := filepath.Join(t.TempDir(), "rootfs.ext4")
	makeImage(t, image, tree)
	return image
}

// GuestSpec returns the spec of a small VM with the suite's guest, for a driver's own tests. It lives in a folder of
// its own, which is removed after the test.
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
	return vm.Spec{ID: filepath.Base(dir), Dir: dir, Kernel: kernel, Rootfs: rootfs, VCPUs: 1, MemoryMiB: 128}
}

func makeTree(t testing.TB, tree string) {
	t.Helper()
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "usr/local/bin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func makeImage(t testing.TB, image, tree string) {
	t.Helper()
	run(t, exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-O", "^resize_inode,^has_journal", "-d", tree, image, "24M"))
}

// emptyFilesystem returns a rootfs without any program in it.
func emptyFilesystem(w *world) string {
	tree := filepath.Join(w.root, "vm-tree")
	makeTree(w, tree)
	image := filepath.Join(w.root, "vm-empty.ext4")
	makeImage(w, image, tree)
	return image
}

func run(t testing.TB, command *exec.Cmd) {
	t.Helper()
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, output)
	}
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
