package snapshot

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// disk is what a store does to its file system, each call a step at which the power may be cut.
type disk interface {
	writeFile(path string, data []byte) error
	syncFile(path string) error
	syncDir(path string) error
	rename(from, to string) error
	exchange(a, b string) error // in one step
	removeAll(path string) error
}

type realDisk struct{}

func (realDisk) writeFile(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }

func (realDisk) syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (realDisk) syncDir(path string) error   { return durable.SyncDir(path) }
func (realDisk) removeAll(path string) error { return os.RemoveAll(path) }

// rename replaces an empty folder too, unlike os.Rename.
func (realDisk) rename(from, to string) error {
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// exchange swaps two names: renameat2(2).
func (realDisk) exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}
