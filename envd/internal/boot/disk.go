package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rootDevice is the guest's first disk, which every driver makes the root.
const rootDevice = "/dev/vda"

// growRoot lets the root file system fill its disk, which may be larger than the image it
// was cloned from.
func growRoot() error {
	disk, err := os.Open(rootDevice)
	if err != nil {
		return err
	}
	defer func() { _ = disk.Close() }()
	fs, err := readSuperblock(disk)
	if err != nil {
		return err
	}
	size, err := deviceSize(disk)
	if err != nil {
		return err
	}
	blocks := size / fs.blockSize
	if blocks <= fs.blocks {
		return nil
	}
	return resize("/", blocks)
}

// superblock is what growRoot needs of an ext4 superblock.
type superblock struct {
	blockSize uint64 // in bytes
	blocks    uint64
}

// readSuperblock reads struct ext4_super_block (fs/ext4/ext4.h), 1024 bytes into the
// device. The mounted file system keeps its size there up to date.
func readSuperblock(disk *os.File) (superblock, error) {
	b := make([]byte, 1024)
	if _, err := disk.ReadAt(b, 1024); err != nil {
		return superblock{}, fmt.Errorf("read the superblock of %s: %w", disk.Name(), err)
	}
	const ext4Magic = 0xef53
	if binary.LittleEndian.Uint16(b[0x38:]) != ext4Magic {
		return superblock{}, fmt.Errorf("%s holds no ext4", disk.Name())
	}
	shift := binary.LittleEndian.Uint32(b[0x18:])
	if shift > 6 { // 64 KiB, the largest there is
		return superblock{}, fmt.Errorf("%s: block size 2^(10+%d)", disk.Name(), shift)
	}
	low, high := binary.LittleEndian.Uint32(b[0x04:]), binary.LittleEndian.Uint32(b[0x150:])
	const incompat64Bit = 0x80 // INCOMPAT_64BIT; without it the high half means nothing
	if binary.LittleEndian.Uint32(b[0x60:])&incompat64Bit == 0 {
		high = 0
	}
	return superblock{blockSize: 1024 << shift, blocks: uint64(high)<<32 | uint64(low)}, nil
}

// deviceSize returns the size of a block device in bytes.
func deviceSize(disk *os.File) (uint64, error) {
	var size uint64
	if err := ioctlPointer(disk, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return 0, fmt.Errorf("size of %s: %w", disk.Name(), err)
	}
	return size, nil
}

// resize grows the ext4 mounted on path to a number of blocks.
func resize(path string, blocks uint64) error {
	const ext4IocResizeFS = 0x40086610 // _IOW('f', 16, __u64), fs/ext4/ext4.h
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = ioctlPointer(dir, ext4IocResizeFS, unsafe.Pointer(&blocks))
	if err != nil {
		err = fmt.Errorf("to %d blocks: %w", blocks, err)
	}
	return errors.Join(err, dir.Close())
}

// ioctlPointer calls ioctl with an argument that the kernel reads or writes through a
// pointer and does not keep.
func ioctlPointer(file *os.File, operation uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), operation, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}
