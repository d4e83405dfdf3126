// Package timerslack lets the kernel wake envd's threads late (prctl(2), PR_SET_TIMERSLACK).
//
// While a Go program is busy a thread of its runtime looks after the others, and begins to do so each 20 µs whenever the program was idle. Each
// look is an interrupt and an access to the timer, for which an emulated processor, and often a virtual one, leaves the guest: in a
// transfer that waits for the host now and then, this took longer than the transfer. What the looks are for, a thread that is kept in a system call, waits for up
// to 10 ms in a busy program anyway.
package timerslack

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Lazy is what envd's threads have.
	Lazy = time.Millisecond
	// Normal is what programs have, as Linux gives it to its first process.
	Normal = 50 * time.Microsecond
)

// Set has the kernel wake each thread of this process up to slack later than it asked for, those too that these start from now on.
func Set(slack time.Duration) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list the threads: %w", err)
	}
	for _, thread := range threads {
		err := os.WriteFile(filepath.Join("/proc", thread.Name(), "timerslack_ns"), strconv.AppendInt(nil, slack.Nanoseconds(), 10), 0)
		if err != nil && !os.IsNotExist(err) { // it has ended
			return fmt.Errorf("set the timer slack of a thread: %w", err)
		}
	}
	return nil
}

// For runs start, which starts a program: one inherits the slack of the thread that starts it, here Normal.
func For(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(own) == Normal {
		return start()
	}
	if err := set(uintptr(Normal)); err != nil {
		return err
	}
	defer func() { _ = set(uintptr(own)) }() // as it was possible before
	return start()
}

func set(slack uintptr) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0); err != nil {
		return fmt.Errorf("set the timer slack: %w", err)
	}
	return nil
}
