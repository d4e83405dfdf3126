package reap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrClosed is the answer to a Start after Drain, and to a Wait for a child that was
// still running when its Reaper was closed.
var ErrClosed = errors.New("no process is started or waited for any more")

// Child is a process that Reaper.Start started. Its methods may be called at the same
// time, and after the process has ended.
type Child struct {
	reaper  *Reaper
	pid     int
	leader  bool // of a process group of its own
	process *os.Process
	group   *group
	done    chan struct{}
	// status is written once, before done is closed.
	status status
	// starved is written with it: whether the kernel killed something for want of memory.
	starved bool
}

func newChild(r *Reaper, cmd *exec.Cmd, group *group) *Child {
	attr := cmd.SysProcAttr
	return &Child{
		reaper:  r,
		pid:     cmd.Process.Pid,
		leader:  attr != nil && (attr.Setsid || attr.Setpgid && attr.Pgid == 0),
		process: cmd.Process,
		group:   group,
		done:    make(chan struct{}),
	}
}

// finish records how the child ended. Its caller holds reaper.mu.
func (c *Child) finish(st status) {
	c.status = st
	c.starved = c.group.starved()
	close(c.done)
	c.reaper.groups.ended(c.group)
	_ = c.process.Release() // closes the pidfd
}

// OOMKilled reports whether the kernel, or KillLargest, had killed something in the child's cgroup for want of memory by the time the
// child ended. It may be called once Done is closed.
func (c *Child) OOMKilled() bool { return c.starved }

// PID returns the process id. Once Done is closed it may belong to another process.
func (c *Child) PID() int { return c.pid }

// Done is closed when the process has ended. What it started may still run.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the process to end, and returns how it did and what it used. The time
// that takes is the caller's to bound, through Done. Each caller gets the same answer.
// The one error is ErrClosed.
func (c *Child) Wait() (unix.WaitStatus, *unix.Rusage, error) {
	select {
	case <-c.done:
	case <-c.reaper.stopped:
	}
	select {
	case <-c.done:
		usage := c.status.usage
		return c.status.wait, &usage, nil
	default:
		return 0, nil, ErrClosed
	}
}

// Signal sends sig to the process, and os.ErrProcessDone says that it has ended. It
// never reaches another process that was given the same pid.
func (c *Child) Signal(sig unix.Signal) error {
	return c.kill(c.pid, sig)
}

// SignalGroup is Signal to the process group that the child leads. Once the child has
// ended it answers os.ErrProcessDone, even where others of the group still run.
func (c *Child) SignalGroup(sig unix.Signal) error {
	if !c.leader {
		return fmt.Errorf("process %d leads no process group", c.pid)
	}
	return c.kill(-c.pid, sig)
}

// kill sends sig to the pid or group while it is certain to be the child's: reaper.mu
// keeps the pid from being waited for.
func (c *Child) kill(target int, sig unix.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	select {
	case <-c.done:
		return os.ErrProcessDone
	default:
	}
	if err := unix.Kill(target, sig); err != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), c.pid, err)
	}
	return nil
}

// KillTree kills the process and all that it started, also what has left its session or
// outlived it, by its cgroup. Without cgroups it kills the process group that the child
// leads, else the child alone, and only while the child runs. Killing what is gone
// already is no error.
func (c *Child) KillTree() error {
	killed, err := c.group.kill()
	if killed {
		return err
	}
	if c.leader {
		err = c.SignalGroup(syscall.SIGKILL)
	} else {
		err = c.Signal(syscall.SIGKILL)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
