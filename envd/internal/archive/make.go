package archive

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
)

// zeros is what becomes a hole.
var zeros [bufferSize]byte

// mode returns the bits of chmod(2).
func mode(h *tar.Header) uint32 { return uint32(h.Mode & 0o7777) }

// file writes a regular file under a temporary name, and then replaces what has its name.
func (p *unpacker) file(h *tar.Header, parent int, base string) error {
	temp := filesystem.TemporaryNew + rand.Text()
	fd, err := unix.Openat(parent, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	err = p.complete(os.NewFile(uintptr(fd), base), h)
	if err == nil {
		err = setTime(parent, temp, h.ModTime)
	}
	if err == nil {
		err = unix.Renameat(parent, temp, parent, base)
	}
	if err != nil {
		_ = unix.Unlinkat(parent, temp, 0)
	}
	return err
}

// complete fills, gives away and closes a file.
func (p *unpacker) complete(file *os.File, h *tar.Header) error {
	err := p.content(file, h.Size)
	if err == nil {
		err = p.giveFile(file)
	}
	if err == nil {
		err = unix.Fchmod(int(file.Fd()), mode(h)) // after the change of owner, which clears some bits
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// content writes what the archive has for a file. It has its size first, which fails where no file
// may be that large, and zeros stay holes.
func (p *unpacker) content(file *os.File, size int64) error {
	if err := file.Truncate(size); err != nil {
		return err
	}
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for offset := int64(0); ; {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(p.in, buf[:])
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := file.WriteAt(buf[:n], offset); err != nil {
				return err
			}
		}
		offset += int64(n)
		switch {
		case err == nil:
		case offset == size:
			return nil
		default:
			return fmt.Errorf("%w: %w", ErrStream, err)
		}
	}
}

// directory makes a directory, or gives the one that is there to the user.
func (p *unpacker) directory(h *tar.Header, parent int, base string) error {
	if err := unix.Mkdirat(parent, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return refused("something that is not a directory has its name")
	}
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), base)
	defer func() { _ = dir.Close() }()
	if err := p.giveFile(dir); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode(h))
}

func (p *unpacker) symlink(h *tar.Header, parent int, base string) error {
	err := replace(parent, base, func() error { return unix.Symlinkat(h.Linkname, parent, base) })
	if err != nil {
		return err
	}
	if err := p.give(parent, base); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

func (p *unpacker) fifo(h *tar.Header, parent int, base string) error {
	err := replace(parent, base, func() error { return unix.Mknodat(parent, base, unix.S_IFIFO|mode(h)&0o777, 0) })
	if err != nil {
		return err
	}
	if err := p.give(parent, base); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

// link gives a file below the root a second name. A link at its end is linked and not followed.
func (p *unpacker) link(h *tar.Header, parent int, name string) error {
	target, err := clean(h.Linkname)
	if err != nil {
		return fmt.Errorf("it is a link to '%s': %w", h.Linkname, err)
	}
	from, err := p.beneath(path.Dir(target))
	if err != nil {
		return fmt.Errorf("it is a link to '%s': %w", h.Linkname, err)
	}
	defer func() { _ = unix.Close(from) }()
	base := path.Base(name)
	if same(from, path.Base(target), parent, base) {
		return nil
	}
	err = replace(parent, base, func() error { return unix.Linkat(from, path.Base(target), parent, base, 0) })
	if err != nil {
		return fmt.Errorf("it is a link to '%s': %w", h.Linkname, err)
	}
	return nil
}

// same reports whether two names are those of one file; to replace one would lose it.
func same(dirA int, a string, dirB int, b string) bool {
	var statA, statB unix.Stat_t
	errA := unix.Fstatat(dirA, a, &statA, unix.AT_SYMLINK_NOFOLLOW)
	errB := unix.Fstatat(dirB, b, &statB, unix.AT_SYMLINK_NOFOLLOW)
	return errA == nil && errB == nil && statA.Dev == statB.Dev && statA.Ino == statB.Ino
}

// replace calls create, and again without what is in its way, unless that is a directory.
func replace(parent int, base string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil {
		return err
	}
	return create()
}

// give makes a name, of a link the link, the user's. Where envd is not root it is already.
func (p *unpacker) give(parent int, base string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return unix.Fchownat(parent, base, int(p.user.UID), int(p.user.GID), unix.AT_SYMLINK_NOFOLLOW)
}

func (p *unpacker) giveFile(file *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return file.Chown(int(p.user.UID), int(p.user.GID))
}

// setTime sets when a name's file, of a link the link, was modified; it counts as read then too.
func setTime(dir int, base string, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	stamp := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
}
