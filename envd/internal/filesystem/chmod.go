package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth is how deep directories may lie in each other for a recursive change; each level is an open file.
const maxDepth = 1000

// chmodAtOnce is how many names of a directory are held at a time, for each level of it.
const chmodAtOnce = 64

// Chmod changes the permission bits, those of chmod(2), of what path leads to; recursive: and of
// all below it, but neither of symbolic links nor of what they lead to. What fails ends it; what
// came before stays changed. The error is an *Error or the context's.
func Chmod(ctx context.Context, path string, mode uint32, recursive bool) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return &Error{Kind: NotFound, Text: "file not found: " + path, Err: err}
	}
	if err != nil {
		return kernelError("error changing the mode of "+path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	c := changer{ctx: ctx, mode: mode, recursive: recursive}
	return c.change(fd, path, maxDepth)
}

// changer is one Chmod under way. It goes by open files, not names: nothing that a program in the guest
// puts in the way of a name is changed.
type changer struct {
	ctx       context.Context
	mode      uint32
	recursive bool
}

// change changes the file that fd is open on, and what is below it.
func (c *changer) change(fd int, path string, depth int) error {
	var stat unix.Stat_t
	err := unix.Fstat(fd, &stat)
	kind := stat.Mode & unix.S_IFMT
	if err == nil && kind == unix.S_IFLNK {
		return nil
	}
	if err == nil {
		// fchmod(2) refuses a file that is open by O_PATH; this way it is the same file.
		err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), c.mode)
	}
	switch {
	case err != nil:
		return kernelError("error changing the mode of "+path, err)
	case !c.recursive || kind != unix.S_IFDIR:
		return nil
	case depth == 0:
		return errorf(Exhausted, "%s lies in more than %d directories", path, maxDepth)
	}
	return c.below(fd, path, depth-1)
}

func (c *changer) below(fd int, path string, depth int) error {
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return kernelError("error reading directory "+path, err)
	}
	dir := os.NewFile(uintptr(own), path)
	defer func() { _ = dir.Close() }()
	for {
		names, err := dir.Readdirnames(chmodAtOnce)
		for _, name := range names {
			if err := c.entry(own, path, name, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return kernelError("error reading directory "+path, err)
		}
	}
}

func (c *changer) entry(dir int, path, name string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	path = filepath.Join(path, name)
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return kernelError("error changing the mode of "+path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	return c.change(fd, path, depth)
}

// ParseMode reads a mode as chmod(1) takes it, in octal. The error is an *Error.
func ParseMode(text string) (uint32, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode > modeBits {
		return 0, &Error{Kind: Invalid, Text: fmt.Sprintf("mode %q is not an octal number from 0 to 7777", text)}
	}
	return uint32(mode), nil
}

// FileMode is what package os calls a mode of chmod(2).
func FileMode(mode uint32) os.FileMode {
	named := os.FileMode(mode).Perm()
	for bit, name := range map[uint32]os.FileMode{
		unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky,
	} {
		if mode&bit != 0 {
			named |= name
		}
	}
	return named
}
