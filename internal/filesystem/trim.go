package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	trimEvery = 10 * time.Second
	// trimWorth is how much must have become free before it is given back, in bytes: FreeMiB may be less by as much as it could be.
	trimWorth = 256 << 20
	// trimPiece is what is given back at a time, in bytes: XFS holds up who needs space there meanwhile, which is 0.2 ms for each extent (1.5 s for 8,000 of them in a GiB).
	trimPiece = 64 << 20
)

// KeepTrimmed gives the blocks of what is removed from the volume back to the disk beneath, until ctx ends. It does nothing for a Native one. Had the file system
// to do so itself (the mount option discard), whoever wrote something down after a snapshot was removed would wait some 30 ms for it.
func (v *Volume) KeepTrimmed(ctx context.Context, log *slog.Logger) {
	if v.Native {
		return
	}
	ticker := time.NewTicker(trimEvery)
	defer ticker.Stop()
	for kept := int64(0); ; { // what is not used by the volume and was not given back, such as its log
		unused, err := v.unused()
		kept = min(kept, unused)
		if err == nil && unused-kept >= trimWorth {
			if err = v.Trim(ctx); err == nil {
				kept, err = v.unused()
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.EOPNOTSUPP):
			log.Info("the disk beneath the volume takes nothing back", "dir", v.Dir)
			return
		case err != nil:
			log.Warn("space could not be given back to the disk beneath the volume", "dir", v.Dir, "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// unused is how many bytes the disk beneath holds for the volume and the volume does not use.
func (v *Volume) unused() (int64, error) {
	info, err := os.Stat(v.image())
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("stat %s: %w", v.image(), fs.ErrInvalid)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(v.Dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", v.Dir, err)
	}
	const sector = 512 // the unit of st_blocks: stat(3type)
	return stat.Blocks*sector - int64(st.Blocks-st.Bfree)*st.Bsize, nil
}

// Trim gives all blocks that the volume does not use back to the disk beneath. Its error matches unix.EOPNOTSUPP where that does not take them.
func (v *Volume) Trim(ctx context.Context) error {
	info, err := os.Stat(v.image())
	if err != nil {
		return err
	}
	dir, err := os.Open(v.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	for start := int64(0); start < info.Size(); start += trimPiece {
		begin := time.Now()
		if err := trim(dir, uint64(start), trimPiece); err != nil {
			return fmt.Errorf("trim %s: %w", v.Dir, err)
		}
		select {
		case <-time.After(time.Since(begin)): // as long as others may have waited
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// fitrim is FITRIM of linux/fs.h: _IOWR('X', 121, struct fstrim_range).
const fitrim = 0xc0185879

// trim discards what is free of some bytes of a file system.
func trim(dir *os.File, start, length uint64) error {
	span := struct{ start, length, least uint64 }{start, length, 0}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&span))) //nolint:gosec // the kernel reads and writes a struct fstrim_range
	if errno != 0 {
		return errno
	}
	return nil
}
