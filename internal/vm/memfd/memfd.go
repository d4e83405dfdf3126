// Package memfd keeps the content of a file in memory, for any number of processes to map and for none to change.
package memfd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
)

// seals: memfd_create(2), fcntl(2). A private mapping may still be written to, whose pages are its own then.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Load copies the file at path into memory. Holes take none of it until somebody reads them. Whoever gets a descriptor, or opens it anew (/proc/self/fd), for writing
// too, can read and map it; any try to change it fails with EPERM. The memory is given back when it is closed, and mapped, nowhere any more.
func Load(ctx context.Context, path string) (_ *os.File, err error) {
	from, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("snapshot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	to := os.NewFile(uintptr(fd), path)
	if err := fill(ctx, from, to); err != nil {
		return nil, errors.Join(fmt.Errorf("keep %s in memory: %w", path, err), to.Close())
	}
	return to, nil
}

func fill(ctx context.Context, from, to *os.File) error {
	if _, err := clone.Into(ctx, from, to); err != nil {
		return err
	}
	if err := to.Chmod(0o666); err != nil { // the seals protect it
		return err
	}
	_, err := unix.FcntlInt(to.Fd(), unix.F_ADD_SEALS, seals)
	return os.NewSyscallError("F_ADD_SEALS", err)
}
