package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// VM is a running Firecracker microVM, a vm.Running.
type VM struct {
	files   files
	saved   vm.Saved
	process *vmm.Process
	api     *api.Client
	out     *outputs
	links   links

	loading atomic.Pointer[loading] // of its memory; nil where that was there

	freezing sync.Mutex // held by Pause, Resume and Snapshot

	asked    atomic.Bool
	booted   atomic.Bool // whether the guest was started
	release  sync.Once
	released chan struct{} // closed by Release
	watched  chan struct{} // closed when nothing is held any more
	done     chan struct{} // closed when the VMM has ended and exit is known
	exit     vm.Exit
}

// newVM takes over process and out.
func newVM(f files, saved vm.Saved, process *vmm.Process, out *outputs) *VM {
	dial := func(ctx context.Context) (net.Conn, error) { return process.Dial(ctx, f.root, apiSocket) }
	v := &VM{
		files: f, saved: saved, process: process, api: api.New(dial), out: out,
		released: make(chan struct{}), watched: make(chan struct{}), done: make(chan struct{}),
	}
	out.keep()
	go v.watch()
	return v
}

// Adopt takes over a VM by its Saved. It is Firecracker's own process that is checked; the guest may be in any state.
func (d *Driver) Adopt(ctx context.Context, saved vm.Saved) (vm.Running, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	if saved.Driver != Name {
		return nil, fmt.Errorf("adopt: the VM in %s is run by %q, not by Firecracker", saved.Dir, saved.Driver)
	}
	process, err := vmm.Adopt(vmm.Identity{PID: saved.PID, StartTime: saved.StartTime, BootID: saved.BootID})
	if lost := lostBefore(saved); errors.Is(err, vm.ErrGone) && lost != nil {
		err = fmt.Errorf("%w: %w", err, lost)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	f := filesOf(saved.Dir)
	out, err := openOutputs(f)
	if err != nil {
		process.Release()
		return nil, fmt.Errorf("adopt: %w", err)
	}
	out.spawned()
	v := newVM(f, saved, process, out)
	v.booted.Store(true)
	if err := v.adoptPager(); err != nil {
		return nil, fmt.Errorf("adopt: %w", errors.Join(err, v.Release()))
	}
	return v, nil
}

// watch waits for the VMM's end or for Release, and frees what is held.
func (v *VM) watch() {
	defer close(v.watched)
	select {
	case <-v.process.Done():
		v.endLoading()
		v.out.drain()
		v.exit = v.judge(v.process.Status())
		v.free()
		close(v.done)
	case <-v.released:
		v.endLoading()
		v.links.close()
		v.free()
	}
}

// free frees what the agent holds, but for connections: those to a VM that has ended
// may hold its last words.
func (v *VM) free() {
	v.out.close() // fails for files only that are closed, which they are not
	v.api.Close()
	v.process.Release()
}

// Saved is what Adopt needs.
func (v *VM) Saved() vm.Saved { return v.saved }

// Done is closed once the VMM has exited, and its output has been read to the end.
func (v *VM) Done() <-chan struct{} { return v.done }

// Exit says how the VMM ended, once Done is closed.
func (v *VM) Exit() vm.Exit {
	select {
	case <-v.done:
		return v.exit
	default:
		return vm.Exit{}
	}
}

// Stop asks the guest to end and kills the VMM if it does not.
func (v *VM) Stop(ctx context.Context, ask func(context.Context) error) (vm.Exit, error) {
	v.asked.Store(true)
	return vm.StopOrKill(ctx, ask, v.done, v.Kill)
}

// Kill ends the VMM at once and waits until it is gone.
func (v *VM) Kill() (vm.Exit, error) {
	v.asked.Store(true)
	err := v.process.Kill(context.Background()) // it has a limit of its own
	if err == nil {
		<-v.watched
	}
	select {
	case <-v.done:
		return v.exit, nil
	case <-v.released:
		err = vm.ErrReleased
	default:
	}
	return vm.Exit{}, fmt.Errorf("kill: %w", err)
}

// Release lets go of the VM.
func (v *VM) Release() error {
	v.release.Do(func() { close(v.released) })
	<-v.watched
	return nil
}

// judge says how the VMM ended, and why.
func (v *VM) judge(s vmm.Status) vm.Exit {
	e := vm.Exit{At: s.At, Code: s.Code, Signal: s.Signal, Known: s.Known, Asked: v.asked.Load()}
	e = vmm.Killed(e, Name, v.saved.Cgroup)
	if lost := v.lostMemory(); lost != "" { // also where it was to be ended for what came of that
		e.Reason, e.MemoryLost = lost, true
		return e
	}
	switch console, err := vm.ReadConsole(v.files.dir); {
	case e.Reason != "":
		e.Reason = join(e.Reason, v.out.lastWords(3))
	case err == nil && vm.GuestPanic(console) != "" && e.Signal == 0:
		e.Reason = vm.GuestPanic(console)
	case !e.Asked:
		e.Reason = v.reason(e)
	}
	return e
}

// statusBadSyscall is the status with which Firecracker exits when its seccomp filter meets a system call that it does not allow, and
// caught are the statuses for signals that it catches: FcExitCode in its src/vmm/src/lib.rs.
const statusBadSyscall = 148

var caught = map[int]syscall.Signal{
	149: syscall.SIGBUS, 150: syscall.SIGSEGV, 151: syscall.SIGXFSZ, 154: syscall.SIGXCPU, 155: syscall.SIGPIPE, 156: syscall.SIGHUP, 157: syscall.SIGILL,
}

// reason says why a VMM ended that nobody asked to, and that no signal killed. Firecracker exits with status 0 when the guest restarts its machine.
func (v *VM) reason(e vm.Exit) string {
	words := v.out.lastWords(3)
	signal, isSignal := caught[e.Code]
	switch {
	case e.Code == statusBadSyscall:
		return join("firecracker was ended by its seccomp filter, for a system call that it may not make", words)
	case isSignal:
		return join(fmt.Sprintf("firecracker was ended by signal %d (%v)", int(signal), signal), words)
	case e.Code != 0 || e.Known && !v.booted.Load():
		return join(fmt.Sprintf("firecracker exited with status %d", e.Code), words)
	case !e.Known:
		return join("firecracker exited", words)
	}
	return "the guest restarted its machine"
}

func join(what, words string) string {
	if words == "" {
		return what
	}
	return what + ": " + words
}

// exitError is why a VM that has ended cannot be used.
func (v *VM) exitError() error {
	switch {
	case v.exit.MemoryLost:
		return fmt.Errorf("the VM has ended: %w", &vm.MemoryLost{Reason: v.exit.Reason})
	case v.exit.Reason == "":
		return errors.New("the VM has ended")
	}
	return fmt.Errorf("the VM has ended: %s", v.exit.Reason)
}

// abandon ends a VM that failed to start, if there is one, and returns cause with what the VMM said. A
// refusal by the API has the VMM's words already. One that was killed is vm.ErrGone too.
func (v *VM) abandon(cause error) error {
	if v == nil {
		return cause
	}
	exit, err := v.Kill()
	var fault *api.Fault
	switch words := v.out.lastWords(3); {
	case exit.MemoryLost:
		cause = fmt.Errorf("%w: %w", cause, &vm.MemoryLost{Reason: exit.Reason})
	case errors.As(cause, &fault):
	case exit.Signal != 0 && !exit.Asked:
		cause = fmt.Errorf("%w: %w: %s", cause, vm.ErrGone, exit.Reason)
	case exit.Reason != "":
		cause = fmt.Errorf("%w: %s", cause, exit.Reason)
	case words != "":
		cause = fmt.Errorf("%w: %s", cause, words)
	}
	return errors.Join(cause, err)
}
