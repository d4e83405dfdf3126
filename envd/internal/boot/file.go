package boot

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// writeKnob writes a value to a file of procfs, sysfs or a cgroup, in one write.
func writeKnob(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// setFile gives the file at path a new content. One that has it already is not touched: its
// blocks stay shared with the image. A symbolic link is replaced, not followed.
//
// A file is written in place and not replaced by a new one, since ext4 waits for the disk
// when a file takes the place of another (mount option auto_da_alloc).
func setFile(path string, content []byte) error {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return overwrite(path, content)
}

// overwrite writes content over what path holds, and then cuts off what is left of that. Where nothing is, as of a name of the same length, the file system is spared that.
func overwrite(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil {
		_, err = file.Write(content)
	}
	if size := int64(len(content)); err == nil && info.Size() > size {
		err = file.Truncate(size)
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}
