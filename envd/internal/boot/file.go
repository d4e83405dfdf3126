package boot

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Files are opened here by the kernel's calls alone: package os tries each with its poller, and what a guest does first after its restore is to be little.

// writeKnob writes a value to a file of procfs, sysfs or a cgroup, in one write.
func writeKnob(path, value string) error {
	return withFile(path, unix.O_WRONLY, func(fd int) error { return write(fd, []byte(value)) })
}

// withFile calls do with the file at path. One that is made is root's to write and everybody's to read.
func withFile(path string, flags int, do func(fd int) error) error {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0o644) })
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	err = do(fd)
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		return &os.PathError{Op: "use", Path: path, Err: err}
	}
	return nil
}

// write writes all of content.
func write(fd int, content []byte) error {
	for len(content) > 0 {
		n, err := ignoringEINTR(func() (int, error) { return unix.Write(fd, content) })
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// readFile returns what a file holds.
func readFile(path string) (content []byte, err error) {
	err = withFile(path, unix.O_RDONLY|unix.O_NONBLOCK, func(fd int) error { // a FIFO is read as empty
		part := make([]byte, 4<<10)
		for {
			n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, part) })
			if n <= 0 || err != nil {
				return err
			}
			content = append(content, part[:n]...)
		}
	})
	return content, err
}

// setFile gives the file at path a new content. One that has it already is not touched: its
// blocks stay shared with the image. A symbolic link is replaced, not followed.
//
// A file is written in place and not replaced by a new one, since ext4 waits for the disk
// when a file takes the place of another (mount option auto_da_alloc).
func setFile(path string, content []byte) error {
	err := overwrite(path, content)
	if err == nil {
		return nil
	}
	if info, statErr := os.Lstat(path); statErr != nil || info.Mode().IsRegular() {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return overwrite(path, content)
}

var errNoFile = errors.New("it is not a regular file")

// overwrite writes content over what the file at path holds, and then cuts off what is left of that. Where nothing is, as of a name of the same length, the file system is
// spared that.
func overwrite(path string, content []byte) error {
	// O_NONBLOCK: a FIFO does not wait for somebody.
	return withFile(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, func(fd int) error {
		var info unix.Stat_t
		if err := unix.Fstat(fd, &info); err != nil {
			return err
		}
		if info.Mode&unix.S_IFMT != unix.S_IFREG {
			return errNoFile
		}
		if same, err := holds(fd, info.Size, content); same || err != nil {
			return err
		}
		if err := write(fd, content); err != nil {
			return err
		}
		if info.Size > int64(len(content)) {
			return unix.Ftruncate(fd, int64(len(content)))
		}
		return nil
	})
}

// holds tells whether content is all that a file of that size has.
func holds(fd int, size int64, content []byte) (bool, error) {
	if size != int64(len(content)) {
		return false, nil
	}
	have := make([]byte, size)
	n, err := ignoringEINTR(func() (int, error) { return unix.Pread(fd, have, 0) })
	return err == nil && n == len(have) && bytes.Equal(have, content), err
}
