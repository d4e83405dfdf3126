// Package child runs processes whose life is tied to ours: helpers of a development
// machine such as a private database server, the control plane or the host agent.
//
// Guarantees: a child is in a process group of its own, unless asked otherwise, so a Ctrl-C at the terminal
// reaches only us and we end the children in the order we choose; and when we die, in
// whatever way, the kernel sends each child its death signal.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// pipeDelay is how long, after a child's end, its own children may keep its output open.
const pipeDelay = 5 * time.Second

// Spec is what to run.
type Spec struct {
	Path        string
	Args        []string // without the program's name
	Env         []string // all of the child's environment
	Dir         string
	Credential  *syscall.Credential // nil: ours
	DeathSignal syscall.Signal      // sent by the kernel when we die; 0 means SIGTERM
	Stdin       io.Reader           // nil: empty
	Stdout      io.Writer           // nil: discarded; written to by one goroutine at a time
	Stderr      io.Writer           // may equal Stdout
	Foreground  bool                // stays in our process group: the terminal is its own too
}

// Process is a child that was started. All methods may be called at the same time.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read only after done is closed
}

// Step is one step of ending a process: a signal, and how long to wait for its effect.
type Step struct {
	Signal syscall.Signal
	Grace  time.Duration
}

// Start runs spec. The caller must see to it that Done is closed before the program
// ends (by Stop), if the child is to end in order.
//
// Linux ties the death signal to the thread that started the child, not to the process
// (prctl(2), PR_SET_PDEATHSIG). A goroutine locked to its thread therefore starts the
// child and stays until it has ended.
func Start(spec Spec) (*Process, error) {
	p := &Process{cmd: command(spec), done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	return p, nil
}

func command(spec Spec) *exec.Cmd {
	cmd := exec.Command(spec.Path, spec.Args...) //nolint:noctx // Stop ends it, step by step
	cmd.Env, cmd.Dir = spec.Env, spec.Dir
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdin = spec.Stdin
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	cmd.WaitDelay = pipeDelay
	death := spec.DeathSignal
	if death == 0 {
		death = syscall.SIGTERM
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !spec.Foreground, Pdeathsig: death, Credential: spec.Credential}
	return cmd
}

// PID is the child's process id. It may be anybody's once Done is closed.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the child has ended and its output has been written out.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits for the child's end and says how it ended: nil for exit status 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// WaitReady asks answers until it is true. That the child ended, or ctx, is an error.
func (p *Process) WaitReady(ctx context.Context, answers func(context.Context) bool) error {
	ended := false
	err := Poll(ctx, func() bool {
		select {
		case <-p.done:
			ended = true
		default:
		}
		return ended || answers(ctx)
	})
	if ended {
		return fmt.Errorf("it ended: %s", describe(p.err))
	}
	return err
}

// Signal sends sig to the child alone. A child that has ended is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	return nil
}

// Stop ends the child: each step in turn until it is gone, then, and at once when ctx
// ends, SIGKILL to its whole group. It returns when the child is gone.
func (p *Process) Stop(ctx context.Context, steps ...Step) {
	for _, s := range steps {
		if p.Signal(s.Signal) != nil {
			break
		}
		if p.gone(ctx, s.Grace) {
			return
		}
	}
	if p.gone(ctx, 0) {
		return
	}
	target := -p.PID()
	if !p.cmd.SysProcAttr.Setpgid {
		target = p.PID()
	}
	_ = syscall.Kill(target, syscall.SIGKILL) // fails only when it is gone
	<-p.done
}

// gone waits for the child's end, at most grace and until ctx ends.
func (p *Process) gone(ctx context.Context, grace time.Duration) bool {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
