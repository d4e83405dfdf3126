package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu/qmp"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// startLimit bounds the time from the start of the process until its VM runs, which takes 50 ms on an idle host.
const startLimit = time.Minute

// exitLimit is how long QEMU may take from closing its sockets, when it gives up, to its end.
const exitLimit = 5 * time.Second

// configured implements vm.Configured.
type configured struct {
	driver *Driver
	spec   vm.Spec
	memory string     // the file that it is restored from; "" for a VM that is booted
	shared *os.File   // what a jailed VM maps in its stead; nil for a copy
	own    *ownMemory // that copy; nil for none
}

func (c *configured) arguments() []string {
	if c.memory != "" {
		return c.driver.restoreArguments(c.spec, c.memory)
	}
	return c.driver.arguments(c.spec)
}

// Start implements vm.Configured.
func (c *configured) Start(ctx context.Context) (vm.Running, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	m, err := c.spawn(ctx)
	if err != nil {
		return nil, fmt.Errorf("start vm %s: %w", c.spec.ID, err)
	}
	m.session.start() //nolint:contextcheck // it outlives the call
	if err := m.runs(ctx); err != nil {
		return nil, fmt.Errorf("start vm %s: %w", c.spec.ID, m.discard(context.WithoutCancel(ctx), err))
	}
	go m.watch()
	return m, nil
}

// spawn returns a machine that nobody watches yet, whose QEMU answers.
func (c *configured) spawn(ctx context.Context) (*machine, error) {
	m, err := c.launch(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.begin(ctx, m); err != nil {
		return nil, m.discard(context.WithoutCancel(ctx), err)
	}
	return m, nil
}

// launch returns a machine whose QEMU has been started, and goes on in begin.
func (c *configured) launch(ctx context.Context) (*machine, error) {
	out, err := openOutputs(c.spec.Dir)
	if err != nil {
		return nil, err
	}
	s, err := listen(ctx, c.spec.Dir)
	if err != nil {
		out.closeWriter()
		_ = out.close()
		return nil, err
	}
	process, err := c.execute(ctx, s, out)
	out.closeWriter()
	if err != nil {
		s.close()
		_ = out.close()
		return nil, errors.Join(err, c.own.close())
	}
	return c.driver.newMachine(c.saved(process.Identity()), process, s, out), nil //nolint:contextcheck // its session outlives the call
}

// begin returns when QEMU answers. QEMU waits for its console before it opens the memory, and gets the console when the memory is there: so a copy of it is made while QEMU is being
// loaded. A QEMU that would not wait finds a file that it may not open.
func (c *configured) begin(ctx context.Context, m *machine) error {
	err := c.own.fill(ctx, c.memory)
	if err == nil {
		err = m.sockets.openConsole(ctx, m.saved.Dir)
	}
	m.sockets.closeFiles()
	if err == nil {
		m.out.keep(m.sockets.console)
		err = m.attach(ctx)
	}
	return errors.Join(err, c.own.close())
}

// execute starts QEMU with its descriptors, in its jail.
func (c *configured) execute(ctx context.Context, s *sockets, out *outputs) (*vmm.Process, error) {
	confinement, shown, err := c.confine()
	if err != nil {
		return nil, err
	}
	tap, err := openNIC(c.spec.NIC)
	if err != nil {
		return nil, err
	}
	defer closeFiles(tap)
	files := append(slices.Clone(s.files), tap...)
	if c.shared != nil {
		files = append(files, c.shared)
	}
	return vmm.Spawn(ctx, vmm.Command{
		Path: c.driver.binary, Args: shown.arguments(), Dir: c.spec.Dir, Jail: confinement,
		Stdout: out.writer, Stderr: out.writer, Files: files,
	})
}

// saved is what Adopt needs of a QEMU that was started.
func (c *configured) saved(id vmm.Identity) vm.Saved {
	saved := vm.Saved{
		Driver: Name, Dir: c.spec.Dir, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID, Machine: c.driver.Machine(c.spec),
	}
	if c.shared != nil {
		saved.Memory = c.memory
	}
	if c.spec.Jail != nil {
		saved.Cgroup, saved.Owner = c.spec.Jail.Cgroup, c.spec.Jail.Owner
	}
	return saved
}

// runs fails if QEMU does not say that the guest executes.
func (m *machine) runs(ctx context.Context) error {
	status, err := m.status(ctx)
	if err == nil && !status.Running {
		err = fmt.Errorf("the guest does not run, its state is %q", vm.Printable(status.Status))
	}
	return err
}

// discard ends a machine that did not start, and returns the reason: what killed QEMU, which is vm.ErrGone too, or why it gave up, in its own words where there are any.
func (m *machine) discard(ctx context.Context, cause error) error {
	if errors.Is(cause, qmp.ErrClosed) { // it is just about to end, and its status is worth waiting for
		select {
		case <-m.process.Done():
		case <-time.After(exitLimit):
		}
	}
	ended := m.hasEnded()
	if err := m.process.Kill(ctx); err != nil {
		cause = errors.Join(cause, err)
	}
	m.detach(true)
	m.process.Release()
	exit, words := m.describeExit(), m.out.lastWords()
	switch {
	case ended && exit.Signal != 0:
		return fmt.Errorf("%w: %s", vm.ErrGone, exit.Reason)
	case ended && words != "":
		return fmt.Errorf("QEMU says: %s", words)
	case words != "":
		return fmt.Errorf("%w; QEMU says: %s", cause, words)
	default:
		return cause
	}
}

func (m *machine) hasEnded() bool {
	select {
	case <-m.process.Done():
		return true
	default:
		return false
	}
}

// Adopt implements vm.Driver.
func (d *Driver) Adopt(ctx context.Context, saved vm.Saved) (vm.Running, error) {
	if saved.Driver != Name {
		return nil, fmt.Errorf("adopt %s: %w", saved.Dir, errOtherDriver)
	}
	process, err := vmm.Adopt(vmm.Identity{PID: saved.PID, StartTime: saved.StartTime, BootID: saved.BootID})
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", saved.Dir, err)
	}
	m, err := d.reconnect(ctx, saved, process)
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", saved.Dir, letGo(process, err))
	}
	go m.watch()
	return m, nil
}

// letGo releases process, and turns err into vm.ErrGone if the process ended meanwhile.
func letGo(process *vmm.Process, err error) error {
	defer process.Release()
	if errors.Is(err, qmp.ErrClosed) {
		select {
		case <-process.Done():
		case <-time.After(exitLimit):
		}
	}
	select {
	case <-process.Done():
		return fmt.Errorf("%w: %w", vm.ErrGone, err)
	default:
		return err
	}
}

// reconnect leaves process to its caller when it fails.
func (d *Driver) reconnect(ctx context.Context, saved vm.Saved, process *vmm.Process) (*machine, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	out, err := openOutputs(saved.Dir)
	if err != nil {
		return nil, err
	}
	out.closeWriter() // QEMU has its own
	s, err := connect(ctx, saved.Dir)
	if err != nil {
		_ = out.close()
		return nil, err
	}
	m := d.newMachine(saved, process, s, out) //nolint:contextcheck // its session outlives the call
	m.out.keep(s.console)
	if err := m.attach(ctx); err != nil {
		m.detach(false)
		return nil, err
	}
	m.session.start() //nolint:contextcheck // it outlives the call
	return m, nil
}
