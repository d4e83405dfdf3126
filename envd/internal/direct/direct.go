// Package direct moves the content of large files between envd and the disk past the guest's page cache, by
// O_DIRECT.
//
// The host caches a guest's disk already. A second copy in the guest costs its processor more than all else that
// a transfer does, pushes out what its programs use, and makes its snapshots larger. Where a file system refuses
// O_DIRECT, everything goes through the cache as usual.
package direct

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Worth is the size from which a transfer is faster this way.
const Worth = 1 << 20

const (
	// blockSize is what is read or written at once.
	blockSize = 1 << 20
	// largeSize is what a few read at once instead: a wait for the disk costs an emulated processor a lot.
	largeSize = 2 << 20
	// blocks is how many there are: while the disk has one, the network has the other. Together they are one huge page, or two.
	blocks   = 2
	hugePage = 2 << 20
	// alignment of memory, offsets and lengths that O_DIRECT needs at most (open(2)).
	alignment = 4 << 10
)

// block is a part of a file in memory that begins at a page.
type block struct {
	memory []byte
	n      int   // how much of memory is part of the file
	err    error // what came of it at the disk
}

// newBlocks maps memory for blocks of the given size, as huge pages where the kernel has them: to fault and to pin 512 pages takes an
// emulated processor longer than to fill them. The caller calls free.
func newBlocks(size int) (all [blocks]block, free func(), err error) {
	mapped, err := unix.Mmap(-1, 0, blocks*size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return all, nil, os.NewSyscallError("mmap", err)
	}
	unaligned := int(uintptr(unsafe.Pointer(&mapped[0])) % hugePage)
	memory := mapped[hugePage-unaligned:][:blocks*size]
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE) // else they are small pages
	for i := range all {
		all[i].memory = memory[i*size : (i+1)*size]
	}
	return all, func() { _ = unix.Munmap(mapped) }, nil
}

// setDirect sets or clears O_DIRECT of an open file, and reports whether that could be done.
func setDirect(file *os.File, on bool) bool {
	conn, err := file.SyscallConn()
	if err != nil {
		return false
	}
	controlErr := conn.Control(func(fd uintptr) {
		var flags int
		if flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil {
			return
		}
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
	})
	return err == nil && controlErr == nil
}

// refused reports whether err is that of a file system that takes the flag and not the transfer.
func refused(err error) bool { return errors.Is(err, unix.EINVAL) }
