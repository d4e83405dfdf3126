package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Clone makes dst, which must not exist, a disk of its own with the content of t's image,
// sizeMiB large (0: as large as the image). The room added to a larger disk is a hole behind
// the guest's file system, which the guest has to grow into it.
//
// A reflink is made where dst lies on the store's file system and that has them, otherwise
// a sparse copy. When ctx ends, a copy is given up. After an error nothing is left of dst.
//
// Errors: Invalid when sizeMiB is smaller than the image, Conflict when dst exists,
// Exhausted when the disk is full, Unavailable when t was replaced and pruned meanwhile.
//
// The clone is deliberately not synced: only a power cut or a crash of the whole host can lose
// it, and that ends the sandbox's VM as well.
func (s *Store) Clone(ctx context.Context, t Template, dst string, sizeMiB int) (Method, error) {
	if sizeMiB == 0 {
		sizeMiB = t.DiskMiB
	}
	if sizeMiB < t.DiskMiB {
		return "", models.Errorf(models.Invalid, "disk_mib must be at least %d for template %s, not %d", t.DiskMiB, t.Name, sizeMiB)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	method, err := s.copyFile(ctx, t.Rootfs, dst)
	if err != nil {
		return "", cloneError(t, dst, err)
	}
	if sizeMiB == t.DiskMiB {
		return method, nil
	}
	if err := os.Truncate(dst, int64(sizeMiB)<<20); err != nil {
		return "", cloneError(t, dst, errors.Join(err, os.Remove(dst)))
	}
	return method, nil
}

func cloneError(t Template, dst string, err error) error {
	switch {
	case errors.Is(err, fs.ErrExist):
		return models.Errorf(models.Conflict, "the sandbox's disk exists already").WithCause(err)
	case errors.Is(err, fs.ErrNotExist) && !exists(t.Rootfs):
		return models.Errorf(models.Unavailable, "template %s was replaced just now", t.Name).WithHint("try again").WithCause(err)
	}
	return fmt.Errorf("clone template %s to %s: %w", t.Name, dst, coded(err))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// copyFile makes a new file dst with the content of src, by reflink where the store has them.
func (s *Store) copyFile(ctx context.Context, src, dst string) (Method, error) {
	shared, err := clone.File(ctx, src, dst, s.reflinks)
	if shared {
		return Reflink, err
	}
	return SparseCopy, err
}

// coded turns a full disk into an error that its user understands.
func coded(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return models.Errorf(models.Exhausted, "the host's disk is full").
			WithHint("destroy sandboxes that are not needed, or give the host more disk").WithCause(err)
	}
	return err
}
