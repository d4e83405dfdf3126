package filesystem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// sectorSize of the volume and its loop device: no disk has larger sectors, so that direct
// I/O to the image's own disk is aligned on every disk.
const sectorSize = 4096

// format makes the image. It is built under another name, so that under its own name there
// is never half a file system. The volume's lock is held: what lies under that other name
// is an earlier attempt's.
func (v *Volume) format(ctx context.Context, sizeGiB int) error {
	size, err := volumeSize(v.base, sizeGiB)
	if err != nil {
		return err
	}
	if _, err := os.Stat(loopControl); err != nil {
		return noVolume(err)
	}
	image := v.image() + ".new"
	if err := makeXFS(ctx, image, size); err != nil {
		return noVolume(errors.Join(err, os.RemoveAll(image)))
	}
	if err := syncFile(image); err != nil {
		return err
	}
	return durable.Rename(image, v.image())
}

// volumeSize returns the size of a new image in bytes.
func volumeSize(dir string, sizeGiB int) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	free := blocksMiB(st.Bavail, st.Bsize) >> 10
	if sizeGiB == 0 {
		sizeGiB = int(free * 4 / 5)
	}
	if sizeGiB < 1 || int64(sizeGiB) > free {
		return 0, models.Errorf(models.Exhausted, "a disk volume of %d GiB does not fit: %s has %d GiB free", sizeGiB, dir, free).
			WithHint("set a size between 1 GiB and what is free, or give the host more disk")
	}
	return int64(sizeGiB) << 30, nil
}

// makeXFS makes a sparse file with an XFS file system that has reflinks.
func makeXFS(ctx context.Context, image string, size int64) error {
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		return errors.New("mkfs.xfs is not installed (package xfsprogs)")
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-m", "reflink=1", "-s", fmt.Sprintf("size=%d", sectorSize), "-L", "wrenn", image)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.xfs: %w: %s", errors.Join(err, ctx.Err()), bytes.TrimSpace(out))
	}
	return nil
}

// lockVolume keeps a second process from making or mounting the same volume at the same
// time. The lock ends with its holder: flock(2).
func lockVolume(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, volumeLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		err = models.Errorf(models.Conflict, "another process is setting up the disk volume in %s", dir).
			WithHint("wait for it, or end it").WithCause(err)
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}
