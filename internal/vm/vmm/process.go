// Package vmm runs one VMM process detached from the agent.
//
// The process is in a session of its own, inherits nothing but what Command names, and outlives the agent. Whoever
// knows its Identity can adopt it later: signals go through a pidfd that was checked against that identity, so that
// they never reach a process that happens to have the same pid.
package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// killLimit bounds how long a process may take to disappear after SIGKILL. It takes longer only
// while it hangs inside the kernel, for instance on a dead disk.
const killLimit = 10 * time.Second

// Status says how a process ended.
type Status struct {
	At     time.Time
	Code   int  // meaningful only if Known and Signal is 0
	Signal int  // the signal that ended it, 0 for none
	Known  bool // false when it was no child of ours: its status went to its reaper
}

// Process is a VMM process, started or adopted. All methods may be called at the same time.
type Process struct {
	identity Identity
	pidfd    *os.File // non-blocking, so that waiting for it takes no thread
	done     chan struct{}
	watched  chan struct{} // closed when the goroutine that waits has ended

	release sync.Once
	status  Status // written before done is closed
}

// Identity returns what Adopt needs.
func (p *Process) Identity() Identity { return p.identity }

// Done is closed once the process has ended. It is never closed after Release.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status says how the process ended, once Done is closed.
func (p *Process) Status() Status {
	if isClosed(p.done) {
		return p.status
	}
	return Status{}
}

// Signal sends a signal to the process. It returns os.ErrProcessDone when it has ended, and vm.ErrReleased after Release.
func (p *Process) Signal(sig syscall.Signal) error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH) || isClosed(p.done):
		return os.ErrProcessDone
	case isClosed(p.watched): // and with it the pidfd
		err = vm.ErrReleased
	}
	return fmt.Errorf("signal VMM %d: %w", p.identity.PID, err)
}

// Kill ends the process at once and waits until it is gone, 10 seconds at most. It succeeds when it
// was gone already, and fails with vm.ErrReleased after Release.
func (p *Process) Kill(ctx context.Context) error {
	if isClosed(p.done) {
		return nil
	}
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-p.watched:
		return p.afterWatch()
	case <-ctx.Done():
		return fmt.Errorf("VMM %d is still there after SIGKILL: %w", p.identity.PID, ctx.Err())
	}
}

// afterWatch tells an end from a release.
func (p *Process) afterWatch() error {
	if isClosed(p.done) {
		return nil
	}
	return fmt.Errorf("kill VMM %d: %w", p.identity.PID, vm.ErrReleased)
}

// Release stops watching the process, which runs on, and waits until nothing is held of it. A
// process that was started here, not adopted, remains a child: when it ends it stays a zombie until it is adopted again
// or this program ends.
func (p *Process) Release() {
	p.release.Do(func() {
		_ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) // ends the wait; cannot fail on a file that can be polled
		<-p.watched
		p.pidfd.Close()
	})
}

// newProcess takes over pidfd.
func newProcess(identity Identity, pidfd int) (*Process, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("watch VMM %d: %w", identity.PID, err)
	}
	p := &Process{
		identity: identity,
		pidfd:    os.NewFile(uintptr(pidfd), "pidfd"),
		done:     make(chan struct{}),
		watched:  make(chan struct{}),
	}
	if err := p.pidfd.SetReadDeadline(time.Time{}); err != nil { // it cannot be polled: a kernel before 5.10
		p.pidfd.Close()
		return nil, fmt.Errorf("watch VMM %d: %w", identity.PID, err)
	}
	go p.watch()
	return p, nil
}

// watch ends when the process does, or on Release. It keeps the pidfd open: Signal
// may be called any time.
func (p *Process) watch() {
	defer close(p.watched)
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
	if err != nil {
		return // released
	}
	p.status = Status{At: time.Now()}
	_ = p.control(func(fd int) error { reap(fd, p.identity.PID, &p.status); return nil })
	close(p.done)
}

func (p *Process) control(f func(fd int) error) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// ended reports whether the process behind pidfd has ended; see pidfd_open(2), "poll".
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// reap collects the status of an ended process, if it is our child. The zombie is looked at through its pidfd
// first: of a process that is not our child, the pid may by now belong to one that is.
func reap(pidfd, pid int, into *Status) {
	if retryEINTR(func() error { return unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WNOWAIT, nil) }) != nil {
		return // ECHILD: not ours
	}
	var status unix.WaitStatus
	if retryEINTR(func() error { _, err := unix.Wait4(pid, &status, 0, nil); return err }) != nil {
		return
	}
	into.Known = true
	if status.Signaled() {
		into.Signal = int(status.Signal())
	} else {
		into.Code = status.ExitStatus()
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
