package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// KillStale kills every process that was started for the VM in dir, recorded or not, and waits until none is
// left. It needs the right to read the environment of other processes.
func KillStale(ctx context.Context, dir string) error {
	for {
		stale, err := Find(dir)
		if err != nil {
			return fmt.Errorf("find VMMs of %s: %w", dir, err)
		}
		if len(stale) == 0 {
			return nil
		}
		for _, pid := range stale {
			if err := killStale(ctx, pid, dir); err != nil {
				return err
			}
		}
	}
}

// Find lists the processes, other than this one, that were started for the VM in dir. Zombies are not among them.
func Find(dir string) ([]int, error) {
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
		if err == nil && pid != os.Getpid() && belongsTo(pid, dir) {
			found = append(found, pid)
		}
	}
	return found, nil
}

func belongsTo(pid int, dir string) bool {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false // it has ended
	}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if string(entry) == DirEnv+"="+dir {
			return true
		}
	}
	return false
}

// killStale holds a pidfd before it looks at the process once more, so that it kills that process or none.
func killStale(ctx context.Context, pid int, dir string) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill VMM %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	if !belongsTo(pid, dir) || ended(pidfd) {
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
