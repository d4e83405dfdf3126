// Package jail confines processes that are about to be started.
//
// A process that is confined runs with a user and group id that no other has, in pid, ipc, uts and mount namespaces of its own and in its
// cgroup from its first instruction on; it can win back no privilege (no_new_privs); and it sees of the file system what it
// is given. All of that is done on a thread that ends after it has started the process, so that no helper program is needed, and
// nothing has to be removed when it has ended or when this program is killed: namespaces go with the processes in them.
package jail

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Confinement is how a process is confined.
type Confinement struct {
	Owner  uint32 // uid and gid of the process, 0 where the program that is started sees to that itself
	View   *View  // what it sees; nil for the host's file system, as this program sees it
	Binds  []Bind // in its own mount namespace; with a View they lie in Own
	Cgroup string // folder of its cgroup v2; "" for this program's
}

// MaxFiles is how many descriptors a confined process may have: several times what a VMM holds.
const MaxFiles = 512

// limits of every confined process. None dumps core: its memory is a customer's. A program that drops its privileges itself
// sees to its number of descriptors as well.
func (c *Confinement) limits() map[int]unix.Rlimit {
	limits := map[int]unix.Rlimit{unix.RLIMIT_CORE: {}}
	if c.Owner != 0 {
		limits[unix.RLIMIT_NOFILE] = unix.Rlimit{Cur: MaxFiles, Max: MaxFiles}
	}
	return limits
}

// Start calls start, with what it has to start its process with, on a thread for which everything else is prepared.
func (c *Confinement) Start(start func(*syscall.SysProcAttr) (*os.Process, error)) (*os.Process, error) {
	binds, err := detachAll(c.Binds)
	if err != nil {
		return nil, err
	}
	defer closeAll(binds)
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if c.Cgroup != "" {
		group, err := os.Open(c.Cgroup)
		if err != nil {
			return nil, fmt.Errorf("open the cgroup: %w", err)
		}
		defer group.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
	}
	if c.Owner != 0 {
		attr.Credential = &syscall.Credential{Uid: c.Owner, Gid: c.Owner} // and no supplementary groups
	}
	var process *os.Process
	err = OnOwnThread(func() (err error) {
		if err := c.enter(binds); err != nil {
			return err
		}
		process, err = start(attr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return process, c.limit(process)
}

// enter prepares this thread.
func (c *Confinement) enter(binds []detached) error {
	if c.View != nil {
		if err := c.View.enter(binds); err != nil {
			return err
		}
	} else if err := bindOnHost(binds); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if c.Owner == 0 {
		return nil // it needs its privileges, until it drops them
	}
	return dropBounds()
}

func bindOnHost(binds []detached) error {
	if err := ownMounts(); err != nil {
		return err
	}
	for _, b := range binds {
		if err := b.attach("/"); err != nil {
			return err
		}
	}
	return nil
}

// dropBounds empties the capability bounding set: capabilities(7). The kernel may know more or fewer capabilities than this program.
func dropBounds() error {
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
}

// limit sets the resource limits, which are a process's and not a thread's. A root without CAP_SYS_RESOURCE, as in some containers, may
// not: then they are this program's. On failure the process is killed.
func (c *Confinement) limit(process *os.Process) error {
	for resource, limit := range c.limits() {
		err := unix.Prlimit(process.Pid, resource, &limit, nil)
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
			_ = process.Kill()
			_, _ = process.Wait()
			return fmt.Errorf("limit the process: %w", err)
		}
	}
	return nil
}
