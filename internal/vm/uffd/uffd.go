// Package uffd speaks userfaultfd(2): the pages that another process misses are asked for, and given to it.
//
// A descriptor belongs to the memory of the process that made it, whoever holds it: every call here acts on that memory. Numbers and layouts are
// those of linux/userfaultfd.h.
package uffd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is what descriptors are made by since Linux 6.1, for whoever may open it.
const Device = "/dev/userfaultfd"

// EventRemove asks for events of memory that its process gives back, by madvise(2).
const EventRemove = 1 << 3

// PageSize is that of the memory that can be served.
const PageSize = 4096

// The calls: _IO, _IOR and _IOWR of asm-generic/ioctl.h with the type 0xAA.
const (
	callNew        = 0xaa00 // of Device
	callAPI        = 0xc018aa3f
	callRegister   = 0xc020aa00
	callUnregister = 0x8010aa01
	callWake       = 0x8010aa02
	callCopy       = 0xc028aa03
	callZero       = 0xc020aa04

	apiVersion  = 0xaa
	modeMissing = 1 << 0
)

// ErrChanging means that the memory is being given back: the event that says so has to be read first.
var ErrChanging = errors.New("the memory is changing")

// Range is a part of a process's address space.
type Range struct{ Start, Length uint64 }

// Create makes a descriptor of this process's memory, which reads without blocking, as a VMM does: by the device or, where there is none, by the system call.
func Create(features uint64) (*os.File, error) {
	fd, err := open()
	if err != nil {
		return nil, fmt.Errorf("make a userfaultfd: %w", err)
	}
	arg := struct{ version, features, calls uint64 }{apiVersion, features, 0}
	if err := call(fd, callAPI, unsafe.Pointer(&arg)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a userfaultfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "userfaultfd"), nil
}

func open() (int, error) {
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK
	device, err := os.Open(Device)
	if errors.Is(err, fs.ErrNotExist) {
		fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, flags, 0, 0)
		return int(fd), orNil(errno)
	}
	if err != nil {
		return -1, err
	}
	defer device.Close()
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), callNew, flags)
	return int(fd), orNil(errno)
}

// Register has the pages that are missing in r asked for.
func Register(fd int, r Range) error {
	arg := struct {
		Range
		mode, calls uint64
	}{r, modeMissing, 0}
	if err := call(fd, callRegister, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("register memory: %w", err)
	}
	return nil
}

// Unregister leaves r to the kernel: what is missing in it is zeros from now on. Who waits goes on.
func Unregister(fd int, r Range) error {
	if err := call(fd, callUnregister, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("leave memory to the kernel: %w", err)
	}
	return nil
}

// Wake has whoever waits for a page of r look for it again.
func Wake(fd int, r Range) error {
	if err := call(fd, callWake, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("wake who waits for memory: %w", err)
	}
	return nil
}

// Copy puts data, whole pages, at address, and wakes who waits for them. It returns how many bytes it put there before it came to a page that is there
// already, with unix.EEXIST, or before memory began to change, with ErrChanging.
func Copy(fd int, address uint64, data []byte) (int, error) {
	arg := struct {
		address uint64
		data    unsafe.Pointer
		length  uint64
		mode    uint64
		done    int64
	}{address, unsafe.Pointer(unsafe.SliceData(data)), uint64(len(data)), 0, 0}
	return progress(call(fd, callCopy, unsafe.Pointer(&arg)), &arg.done, "copy memory")
}

// Zero is Copy of zeros, which take no memory until they are written to.
func Zero(fd int, r Range) (int, error) {
	arg := struct {
		Range
		mode uint64
		done int64
	}{r, 0, 0}
	return progress(call(fd, callZero, unsafe.Pointer(&arg)), &arg.done, "make zeros")
}

// progress judges a call that may have done a part of what it was to do: then it says EAGAIN and how much, and what stopped it only when it is called again.
func progress(err error, done *int64, what string) (int, error) {
	n := max(0, int(*done))
	switch {
	case err == nil || errors.Is(err, unix.EAGAIN) && n > 0:
		return n, nil
	case errors.Is(err, unix.EAGAIN):
		return 0, ErrChanging
	}
	return 0, fmt.Errorf("%s: %w", what, err)
}

func call(fd int, number uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(arg))
	return orNil(errno)
}

func orNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
