// Package seccomp tells which system calls the filters of a running thread refuse: seccomp(2).
//
// That a thread has a filter, which /proc shows, says little: one that allows everything is a filter, too. So the filters themselves are
// taken out of the kernel, and asked.
package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrUnknown is the error of Refuses where this kernel, or this program's own confinement, does not let it look.
var ErrUnknown = errors.New("filters of system calls cannot be read here")

// Refuses reports whether the filters of a thread refuse a system call, whatever its arguments, for which zeros stand. The thread, which must not be this
// program's, is stopped for an instant. It needs root and a kernel with CONFIG_CHECKPOINT_RESTORE.
func Refuses(thread int, call uint32) (bool, error) {
	// Tracing belongs to the thread that began it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := stop(thread); err != nil {
		return false, fmt.Errorf("stop thread %d: %w", thread, err)
	}
	defer func() { _ = unix.PtraceDetach(thread) }() // fails if it has ended, and goes on by itself if not
	for n := 0; ; n++ {
		filter, err := filterOf(thread, n)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // there are no more, or none
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read a filter of thread %d: %w", thread, err)
		}
		if refuses, err := judge(filter, call); refuses || err != nil {
			return refuses, err
		}
	}
}

// stop attaches to a thread and returns when it has stopped.
func stop(thread int) error {
	if err := unix.PtraceSeize(thread); err != nil {
		return err
	}
	err := unix.PtraceInterrupt(thread)
	for err == nil {
		var status unix.WaitStatus
		_, err = unix.Wait4(thread, &status, unix.WALL, nil)
		if err == nil && status.Stopped() {
			return nil
		}
		if err == nil {
			return errors.New("it has ended")
		}
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	_ = unix.PtraceDetach(thread)
	return err
}

// filterOf returns the nth filter of a stopped thread: ptrace(2), PTRACE_SECCOMP_GET_FILTER.
func filterOf(thread, n int) ([]bpf.RawInstruction, error) {
	length, err := getFilter(thread, n, nil)
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, length)
	if _, err := getFilter(thread, n, filter); err != nil {
		return nil, err
	}
	instructions := make([]bpf.RawInstruction, length)
	for i, f := range filter {
		instructions[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	return instructions, nil
}

func getFilter(thread, n int, into []unix.SockFilter) (int, error) {
	length, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(thread), uintptr(n),
		uintptr(unsafe.Pointer(unsafe.SliceData(into))), 0, 0) // the kernel writes as many as it said there are
	if errno == 0 {
		return int(length), nil
	}
	if errno == unix.EIO || errno == unix.EACCES { // not built in; not allowed
		return 0, fmt.Errorf("%w: %w", ErrUnknown, errno)
	}
	return 0, errno
}

// judge runs a filter on a system call. What it returns is an action, of which one alone lets the call pass unnoticed.
func judge(filter []bpf.RawInstruction, call uint32) (bool, error) {
	program, ok := bpf.Disassemble(filter)
	if !ok {
		return false, errors.New("the filter holds an instruction that is not known")
	}
	machine, err := bpf.NewVM(program)
	if err != nil {
		return false, fmt.Errorf("load the filter: %w", err)
	}
	action, err := machine.Run(data(call))
	if err != nil {
		return false, fmt.Errorf("run the filter: %w", err)
	}
	switch uint32(action) & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG:
		return false, nil
	}
	return true, nil
}

// data is the struct seccomp_data of linux/seccomp.h, with the words in the byte order of networks, in which package bpf reads them.
func data(call uint32) []byte {
	const size = 64
	words := binary.BigEndian.AppendUint32(nil, call)
	words = binary.BigEndian.AppendUint32(words, unix.AUDIT_ARCH_X86_64)
	return append(words, make([]byte, size-len(words))...)
}
