package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KillStale kills every process that was started for the VM in dir, recorded or not, and waits until none is
// left. A process with a jail is found by its user, which is owner; 0 for none. It needs the right to read the environment of other
// processes.
func KillStale(ctx context.Context, dir string, owner uint32) error {
	for {
		stale, err := Find(dir, owner)
		if err != nil {
			return fmt.Errorf("find VMMs of %s: %w", dir, err)
		}
		if len(stale) == 0 {
			return nil
		}
		for _, pid := range stale {
			if err := killStale(ctx, pid, dir, owner); err != nil {
				return err
			}
		}
	}
}

// Find lists the processes, other than this one, that were started for the VM in dir, or are owner's. Zombies are not among them.
func Find(dir string, owner uint32) ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var found []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && pid != os.Getpid() && belongsTo(pid, dir, owner) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// belongsTo reports whether a process says that it is of the VM in dir, or is owner's and does not say that it is of another VM: another agent of
// this machine may have been given the same users. A jailed Firecracker says nothing.
func belongsTo(pid int, dir string, owner uint32) bool {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false // it has ended
	}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if its, found := strings.CutPrefix(string(entry), DirEnv+"="); found {
			return its == dir
		}
	}
	return owner != 0 && runsAs(pid, owner)
}

// runsAs reports whether a process that is no zombie has owner as its real user id: proc_pid_status(5).
func runsAs(pid int, owner uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(status) {
		switch fields := bytes.Fields(line); {
		case len(fields) < 2:
		case string(fields[0]) == "State:" && string(fields[1]) == "Z":
			return false
		case string(fields[0]) == "Uid:":
			return string(fields[1]) == strconv.FormatUint(uint64(owner), 10)
		}
	}
	return false
}

// killStale holds a pidfd before it looks at the process once more, so that it kills that process or none.
func killStale(ctx context.Context, pid int, dir string, owner uint32) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill VMM %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	if !belongsTo(pid, dir, owner) || ended(pidfd) {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill VMM %d: %w", pid, err)
	}
	return awaitEnd(ctx, pidfd, pid)
}

// awaitEnd looks every 20 ms whether ctx has ended: poll(2) knows nothing of contexts.
func awaitEnd(ctx context.Context, pidfd, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	const slice = 20 * time.Millisecond
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(slice.Milliseconds()))
		switch {
		case n == 1:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for VMM %d: %w", pid, err)
		case ctx.Err() != nil:
			return fmt.Errorf("VMM %d is still there after SIGKILL: %w", pid, ctx.Err())
		}
	}
}
