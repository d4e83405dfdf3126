// Package guestimage makes root file systems with the suite's guest in them, for the suite and for programs that
// measure a driver. No mount is needed, nor root, but mke2fs and, unless the guest's program was built before, Go.
package guestimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const guestPackage = "github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guest"

// guestEnv names the guest's program where it was built before, for machines without Go.
const guestEnv = "WRENN_VMTEST_GUEST"

// Make makes a root file system of the suite's guest.
func Make(ctx context.Context, image string) error {
	return makeImage(ctx, image, func(tree string) error {
		return addGuest(ctx, filepath.Join(tree, "usr/local/bin/envd")) // where every driver's init= points
	})
}

// MakeEmpty makes a root file system without any program in it.
func MakeEmpty(ctx context.Context, image string) error {
	return makeImage(ctx, image, func(string) error { return nil })
}

func makeImage(ctx context.Context, image string, fill func(tree string) error) (err error) {
	tree, err := os.MkdirTemp(filepath.Dir(image), "tree")
	if err != nil {
		return fmt.Errorf("make a guest's image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "usr/local/bin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return fmt.Errorf("make a guest's image: %w", err)
		}
	}
	if err := fill(tree); err != nil {
		return err
	}
	return run(exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^resize_inode,^has_journal", "-d", tree, image, "24M"))
}

func addGuest(ctx context.Context, program string) error {
	if built := os.Getenv(guestEnv); built != "" {
		text, err := os.ReadFile(built)
		if err != nil {
			return err
		}
		return os.WriteFile(program, text, 0o755)
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, guestPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	return run(build)
}

func run(command *exec.Cmd) error {
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", command, err, output)
	}
	return nil
}
