// Package reap starts child processes and collects the exit status of every process
// that ends below envd, its own children and orphans alike.
//
// The kernel hands every orphan to PID 1, which must wait for it or leave a zombie.
// Whoever waits for any child also takes the status of the children that os/exec
// started, and os/exec's own wait then fails. So all waiting is done in one place: a
// Reaper starts the children, one goroutine waits for whatever ends, and the status of
// a known child goes to its Child. While a Reaper is open no other code of the process
// may wait for a child: no exec.Cmd.Run, Output or Wait.
package reap

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/timerslack"
	"golang.org/x/sys/unix"
)

// Options configure a Reaper.
type Options struct {
	// Cgroup is a cgroup v2 folder. Every child gets a cgroup of its own below it, which
	// lets Child.KillTree reach all that the child started. Empty means no cgroups.
	Cgroup string
}

// Reaper is the one place of the process that waits for children. Its methods may be
// called at the same time.
type Reaper struct {
	orphans atomic.Uint64
	wake    chan os.Signal // what SIGCHLD or Drain puts in starts another round of reaping
	stop    chan struct{}
	stopped chan struct{}

	// startMu serialises Start, so that at most one child is alive but not yet known.
	// Go's fork lock does the same anyway.
	startMu sync.Mutex
	groups  groups

	// mu guards what follows, and with it the link between a pid and a Child: a pid in
	// children has not been waited for yet, so it cannot belong to another process.
	mu       sync.Mutex
	children map[int]*Child
	// starting is true while a child may be alive that is not in children yet; unclaimed
	// then keeps the status of every unknown process that ended meanwhile.
	starting  bool
	unclaimed map[int]status
	// drained is closed when no child is left; nil while nobody drains.
	drained chan struct{}
}

// status is how a process ended.
type status struct {
	wait  unix.WaitStatus
	usage unix.Rusage
}

// New starts reaping. A process that is not PID 1 becomes a subreaper, so that the
// orphans below it come to it as they come to PID 1.
func New(opts Options) (*Reaper, error) {
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("become a subreaper: %w", err)
		}
	}
	probePidfd()
	r := &Reaper{
		wake:     make(chan os.Signal, 1),
		stop:     make(chan struct{}),
		stopped:  make(chan struct{}),
		groups:   groups{parent: opts.Cgroup},
		children: make(map[int]*Child),
	}
	signal.Notify(r.wake, unix.SIGCHLD)
	go r.loop()
	return r, nil
}

// probePidfd makes package os find out now whether pidfds work. It does so once, by
// starting and waiting for a child; a Reaper that runs already would take that child's
// status, and os would do without pidfds from then on.
func probePidfd() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Release()
	}
}

// Close stops reaping and waits until it has stopped. Children that still run are left
// alone, and a Wait for one of them answers ErrClosed. It must be called once only.
func (r *Reaper) Close() {
	signal.Stop(r.wake)
	close(r.stop)
	<-r.stopped
	r.groups.close()
}

// Orphans returns how many processes ended that were not started by Start.
func (r *Reaper) Orphans() uint64 { return r.orphans.Load() }

// Tidy is called when the end of a child has been told to whoever waited for it: what is to be done then keeps nobody waiting.
func (r *Reaper) Tidy() { time.AfterFunc(tidyAfter, r.groups.tidy) }

// Start starts cmd, whose status is then had from the Child. cmd.Wait must not be
// called, so what depends on it is refused: a command made with exec.CommandContext,
// and standard streams that are not an *os.File. Ends of pipes made by cmd.StdinPipe
// and its like are the caller's to close. cmd.Process must not be used either: it is
// released when the child ends.
func (r *Reaper) Start(cmd *exec.Cmd) (*Child, error) {
	if err := check(cmd); err != nil {
		return nil, err
	}
	r.startMu.Lock()
	defer r.startMu.Unlock()
	if !r.expectChild() {
		return nil, ErrClosed
	}
	group := r.groups.add(cmd)
	err := timerslack.For(cmd.Start)
	group.started()
	child := r.claim(cmd, group)
	if err != nil {
		r.groups.ended(group)
		return nil, err
	}
	return child, nil
}

// check refuses a command that does not work without cmd.Wait.
func check(cmd *exec.Cmd) error {
	if cmd.Cancel != nil {
		return fmt.Errorf("start %s: a command with a context cannot be reaped", cmd.Path)
	}
	for _, stream := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		if _, ok := stream.(*os.File); !ok && stream != nil {
			return fmt.Errorf("start %s: a standard stream is a %T, not a file", cmd.Path, stream)
		}
	}
	return nil
}

// Drain refuses every Start from now on and waits until no process is left below this
// one, or until ctx ends. Ending them is the caller's part.
func (r *Reaper) Drain(ctx context.Context) error {
	drained := r.drain()
	select {
	case r.wake <- unix.SIGCHLD:
	default: // a round is due anyway
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *Reaper) drain() chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drained == nil {
		r.drained = make(chan struct{})
	}
	return r.drained
}

// expectChild opens the time in which a child may be alive that is not known yet, and
// reports false when no child may be started any more.
func (r *Reaper) expectChild() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting = r.drained == nil
	return r.starting
}

// claim closes that time and makes the process of cmd, if there is one, known.
func (r *Reaper) claim(cmd *exec.Cmd, group *group) *Child {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := r.unclaimed
	r.starting, r.unclaimed = false, nil
	if cmd.Process == nil {
		return nil
	}
	child := newChild(r, cmd, group)
	// A status under this pid is the child's only if the child is gone: the pid may have
	// been an orphan's before.
	if st, ok := ended[child.pid]; ok && cmd.Process.Signal(unix.Signal(0)) != nil {
		r.orphans.Add(^uint64(0)) // it was counted as one
		child.finish(st)
		return child
	}
	r.children[child.pid] = child
	return child
}

// loop waits for processes each time the kernel says that one has ended.
func (r *Reaper) loop() {
	defer close(r.stopped)
	for {
		for r.reapOne() {
		}
		select {
		case <-r.wake:
		case <-r.stop:
			return
		}
	}
}

// reapOne waits for one process that has ended and reports whether there was one.
// Waiting and handing over are one step under mu.
func (r *Reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var st status
	pid, err := unix.Wait4(-1, &st.wait, unix.WNOHANG|unix.WALL, &st.usage)
	switch {
	case err == unix.EINTR:
		return true
	case err == unix.ECHILD:
		r.childless()
		return false
	case err != nil || pid <= 0:
		return false
	}
	r.deliver(pid, st)
	return true
}

// childless tells Drain that no process is left, unless one is just being started.
func (r *Reaper) childless() {
	if r.drained == nil || r.starting {
		return
	}
	select {
	case <-r.drained:
	default:
		close(r.drained)
	}
}

// deliver hands the status of pid to whom it belongs.
func (r *Reaper) deliver(pid int, st status) {
	if child, ok := r.children[pid]; ok {
		delete(r.children, pid)
		child.finish(st)
		return
	}
	r.orphans.Add(1)
	if !r.starting {
		return
	}
	if r.unclaimed == nil {
		r.unclaimed = make(map[int]status)
	}
	r.unclaimed[pid] = st
}
