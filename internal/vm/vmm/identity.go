package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Identity names one process for ever: pids are reused, but not within the same clock tick
// of the same boot.
type Identity struct {
	PID       int
	StartTime uint64 // field 22 of /proc/pid/stat: clock ticks since boot
	BootID    string // /proc/sys/kernel/random/boot_id
}

// Adopt takes over the process that identity names, which need not be a child of this
// program. When it does not run any more the error is vm.ErrGone.
func Adopt(identity Identity) (*Process, error) {
	if identity.PID <= 0 {
		return nil, fmt.Errorf("adopt VMM %d: %w", identity.PID, vm.ErrGone)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if boot != identity.BootID {
		return nil, fmt.Errorf("VMM %d ran before the last boot: %w", identity.PID, vm.ErrGone)
	}
	pidfd, err := openIdentity(identity)
	if err != nil {
		return nil, err
	}
	return newProcess(identity, pidfd)
}

// Self returns the identity of this process.
func Self() (Identity, error) { return Identify(os.Getpid()) }

// openIdentity returns a pidfd of the process, which ran at that moment.
func openIdentity(identity Identity) (int, error) {
	pidfd, err := unix.PidfdOpen(identity.PID, 0)
	if err != nil {
		return -1, fmt.Errorf("adopt VMM %d: %w", identity.PID, goneIfFree(err))
	}
	// The order matters: a process that has not ended after its start time was read is the one it was read of.
	start, err := startTime(identity.PID)
	if err != nil || start != identity.StartTime || ended(pidfd) {
		unix.Close(pidfd)
		return -1, fmt.Errorf("pid %d is not the VMM that was started: %w", identity.PID, vm.ErrGone)
	}
	return pidfd, nil
}

// goneIfFree tells an error of pidfd_open(2) that says that no process has the pid. It may be that of a mere thread now,
// for which the errors are EINVAL and, since Linux 6.9, ENOENT.
func goneIfFree(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", vm.ErrGone, err)
	}
	return err
}

// Identify returns the identity of a process, which runs.
func Identify(pid int) (Identity, error) {
	start, err := startTime(pid)
	if err != nil {
		return Identity{}, err
	}
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, StartTime: start, BootID: boot}, nil
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// startTime reads field 22 of /proc/pid/stat. Field 2, the name in brackets, may hold blanks and brackets, so that
// fields are counted from its end; see proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time: /proc/%d/stat is cut off", pid)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time of %d: %w", pid, err)
	}
	return start, nil
}
