// Package process runs the processes that callers of envd ask for, and carries their
// input and output.
//
// A process gets the ids and groups of its user, an environment that is built here and not
// inherited, a session of its own and (through package reap) a cgroup of its own. It does not
// depend on whoever started it: it lives until it ends, is killed, or its timeout has
// passed. No output is lost silently; type output says who waits for whom.
//
// A process's call ends with the process, not with its pipes: a daemon that it left behind
// keeps them open. What they hold a moment after the process has ended (grace) still belongs to
// the call; what the daemon writes later is read and forgotten, so that it can live on.
package process

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
)

// grace is how long after a process's end others may still add to its output. It is for the tail
// of a pipeline that the shell did not wait for, as in `echo x > >(tee log)`.
const grace = 100 * time.Millisecond

// Process is a process that Service.Start started. Its methods may be called at the same time.
type Process struct {
	spec  *Spec
	child *reap.Child
	in    *input
	out   *output
	pumps []*pump     // of stdout and stderr, or of the terminal
	timer *time.Timer // nil without a timeout
	late  atomic.Bool // whether the timeout killed it
	since time.Time

	done chan struct{}
	// exit is written once, before done is closed.
	exit Exit
}

// Exit says how a process ended.
type Exit struct {
	Code     int // -1 when a signal ended it
	Signal   unix.Signal
	Core     bool // whether it left a core dump
	TimedOut bool // whether its timeout ended it
	// OOMKilled is whether the kernel killed it, or something that it started, for want of memory.
	OOMKilled bool
}

// PID returns the process id.
func (p *Process) PID() int { return p.child.PID() }

// Spec returns what was started; it must not be changed.
func (p *Process) Spec() *Spec { return p.spec }

// Started returns when the process was started.
func (p *Process) Started() time.Time { return p.since }

// OutputSize returns how many bytes of output there have been.
func (p *Process) OutputSize() uint64 { return p.out.size() }

// Attach adds a reader of the output from offset on, or from now on if that is negative. With gaps it is told what
// it has missed, and otherwise ended then. The caller closes it.
func (p *Process) Attach(offset int64, gaps bool) (*Reader, error) { return p.out.attach(offset, gaps) }

// Done is closed when the process has ended and all its output is queued; Exit then answers.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the process ended. It may be called once Done is closed.
func (p *Process) Exit() Exit { return p.exit }

// Write feeds the standard input. It returns once the process's pipe has taken all of data.
func (p *Process) Write(ctx context.Context, data []byte) error { return p.in.write(ctx, data) }

// CloseInput ends the standard input. It can be repeated.
func (p *Process) CloseInput() error {
	if p.in.terminal {
		return errorf(Ended, "a terminal has no end of input: send it the character ^D (4) instead")
	}
	p.in.close()
	return nil
}

// Signal sends sig to the process's group. SIGKILL reaches everything that the process
// started, wherever that went, if the guest has cgroups.
func (p *Process) Signal(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return p.Kill()
	}
	return p.child.SignalGroup(sig)
}

// Kill kills the process and everything that it started.
func (p *Process) Kill() error { return p.child.KillTree() }

// expire is what the timeout does.
func (p *Process) expire() {
	p.late.Store(true)
	_ = p.Kill() // whoever reads the output sees whether it ended
}

// watch waits for the process and its output, and passes on what pipes are still open then.
func (p *Process) watch(ended func(), leftover func(*pump)) {
	copied := p.copyOutput()
	status, _, err := p.child.Wait()
	ended()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.in.close()
	for _, pump := range p.pumps {
		_ = pump.pipe.SetReadDeadline(time.Now().Add(grace))
	}
	copied.Wait()
	p.exit = p.exitOf(status, err)
	p.out.end()
	close(p.done)
	for _, pump := range p.pumps {
		leftover(pump)
	}
}

// copyOutput starts the pumps. Each one that has reached end of file closes its pipe.
func (p *Process) copyOutput() *sync.WaitGroup {
	var copied sync.WaitGroup
	for _, pump := range p.pumps {
		copied.Go(func() {
			if pump.run() {
				_ = pump.pipe.Close()
				pump.ended = true
			}
		})
	}
	return &copied
}

// exitOf translates a wait status. A reaper that was closed knows none.
func (p *Process) exitOf(status unix.WaitStatus, err error) Exit {
	switch {
	case err != nil:
		return Exit{Code: -1}
	case status.Signaled():
		return Exit{
			Code: -1, Signal: status.Signal(), Core: status.CoreDump(),
			TimedOut:  p.late.Load() && status.Signal() == unix.SIGKILL,
			OOMKilled: p.child.OOMKilled(),
		}
	}
	return Exit{Code: status.ExitStatus(), OOMKilled: p.child.OOMKilled()}
}
