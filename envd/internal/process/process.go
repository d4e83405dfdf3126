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
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
)

// bufferSize is how much output of a process is held for readers that lag; with maxProcesses
// it bounds what output takes.
const bufferSize = 256 << 10

// grace is how long after a process's end others may still add to its output. It is for the tail
// of a pipeline that the shell did not wait for, as in `echo x > >(tee log)`.
const grace = 100 * time.Millisecond

// Process is a process that Service.Start started. Its methods may be called at the same time.
type Process struct {
	spec  *Spec
	child *reap.Child
	in    *input
	out   *output
	pipes [2]*os.File // the read ends of stdout and stderr
	timer *time.Timer // nil without a timeout
	late  atomic.Bool // whether the timeout killed it

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
}

// PID returns the process id.
func (p *Process) PID() int { return p.child.PID() }

// Spec returns what was started; it must not be changed.
func (p *Process) Spec() *Spec { return p.spec }

// Attach adds a reader of the output from now on, or, when there is no other, from where the
// last one stopped. The caller closes it.
func (p *Process) Attach() *Reader { return p.out.attach() }

// Done is closed when the process has ended and all its output is queued; Exit then answers.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the process ended. It may be called once Done is closed.
func (p *Process) Exit() Exit { return p.exit }

// Write feeds the standard input. It returns once the process's pipe has taken all of data.
func (p *Process) Write(ctx context.Context, data []byte) error { return p.in.write(ctx, data) }

// CloseInput ends the standard input. It can be repeated.
func (p *Process) CloseInput() { p.in.close() }

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
	pumps, copied := p.copyOutput()
	status, _, err := p.child.Wait()
	ended()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.in.close()
	for _, pipe := range p.pipes {
		_ = pipe.SetReadDeadline(time.Now().Add(grace))
	}
	copied.Wait()
	p.exit = p.exitOf(status, err)
	p.out.end()
	close(p.done)
	for _, pump := range pumps {
		leftover(pump)
	}
}

// copyOutput starts the pumps. Each one that has reached end of file closes its pipe.
func (p *Process) copyOutput() ([]*pump, *sync.WaitGroup) {
	var copied sync.WaitGroup
	pumps := make([]*pump, 0, len(p.pipes))
	for i, stream := range []Stream{Stdout, Stderr} {
		pump := &pump{stream: stream, pipe: p.pipes[i], out: p.out}
		pumps = append(pumps, pump)
		copied.Go(func() {
			if pump.run() {
				_ = pump.pipe.Close()
				pump.ended = true
			}
		})
	}
	return pumps, &copied
}

// exitOf translates a wait status. A reaper that was closed knows none.
func (p *Process) exitOf(status unix.WaitStatus, err error) Exit {
	switch {
	case err != nil:
		return Exit{Code: -1}
	case status.Signaled():
		return Exit{
			Code: -1, Signal: status.Signal(), Core: status.CoreDump(),
			TimedOut: p.late.Load() && status.Signal() == unix.SIGKILL,
		}
	}
	return Exit{Code: status.ExitStatus()}
}
