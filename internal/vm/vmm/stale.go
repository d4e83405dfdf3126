package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is what the VMM of a VM is known by when no record names its process.
type Mark struct {
	Dir   string // the VM's folder
	Disk  string // its disk, in a folder of which nobody else has a say
	Owner uint32 // its user, if it has a jail; else 0
}

// KillStale kills every process that was started for a VM, recorded or not, and waits until none is left. It needs the right to read the
// environment and the mounts of other processes.
func KillStale(ctx context.Context, m Mark) error {
	for {
		w, err := m.wanted()
		if err != nil {
			return fmt.Errorf("find VMMs of %s: %w", m.Dir, err)
		}
		stale, err := w.find()
		if err != nil {
			return fmt.Errorf("find VMMs of %s: %w", m.Dir, err)
		}
		if len(stale) == 0 {
			return nil
		}
		for _, pid := range stale {
			if err := w.kill(ctx, pid); err != nil {
				return err
			}
		}
	}
}

// Find lists the processes, other than this one, that were started for a VM. Zombies are not among them.
func Find(m Mark) ([]int, error) {
	w, err := m.wanted()
	if err != nil {
		return nil, err
	}
	return w.find()
}

// wanted is a Mark with what it is compared with.
type wanted struct {
	Mark
	disk  place  // of a VM with a jail
	users string // this program's user namespace
	self  uint32 // this program's user
}

func (m Mark) wanted() (w wanted, err error) {
	w = wanted{Mark: m, self: uint32(os.Geteuid())}
	if m.Owner == 0 {
		return w, nil
	}
	if w.disk, err = placeOf(m.Disk); err != nil {
		return w, err
	}
	w.users, err = os.Readlink("/proc/self/ns/user")
	return w, err
}

func (w wanted) find() ([]int, error) {
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
		if err == nil && pid != os.Getpid() && w.is(pid) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// is reports whether a process was started for the VM, by what the process cannot have made up. Others may carry what DirEnv names, and a VMM that
// its guest has taken over may write over its own environment: it counts of a process of this program's user alone, which no VMM with a jail is.
//
// A VMM with a jail is known by the disk among its mounts, which it has from its birth and which root alone can put there or take away. It could leave
// them behind only in a user namespace of its own, which no VMM has. Its user alone says nothing: another agent of this machine may have
// been given the same users.
func (w wanted) is(pid int) bool {
	t := liveTask(pid)
	switch {
	case t.dir == "":
		return false
	case w.Owner == 0:
		return t.runsAs(w.self) && t.environment(DirEnv) == w.Dir
	case t.hasMounted(w.disk):
		return true
	}
	users, err := os.Readlink(filepath.Join(t.dir, "ns/user"))
	return err == nil && users != w.users && t.runsAs(w.Owner)
}

// kill holds a pidfd before it looks at the process once more, so that it kills that process or none.
func (w wanted) kill(ctx context.Context, pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill VMM %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	if !w.is(pid) || ended(pidfd) {
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
