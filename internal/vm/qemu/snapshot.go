package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/ram"
)

// undoLimit bounds what brings a VM back into its state when a snapshot failed.
const undoLimit = 30 * time.Second

// Machine implements vm.Driver.
func (d *Driver) Machine(spec vm.Spec) vm.Machine {
	m := vm.Machine{
		Driver: Name, Version: d.info.Version, Accelerator: d.info.Accelerator, CPU: emulatedCPU, TSCKHz: d.tscKHz,
		VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB,
	}
	if d.info.Accelerator == KVM {
		m.CPU = vm.HostCPU()
	}
	bare := vm.Spec{VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB}
	if spec.NIC != nil {
		bare.NIC = &vm.NIC{}
	}
	m.Hardware = vm.Digest(d.hardware(bare)...)
	return m
}

// runState is QEMU's answer to query-status.
type runState struct {
	Running bool   `json:"running"`
	Status  string `json:"status"`
}

func (m *machine) status(ctx context.Context) (s runState, err error) {
	err = m.qmp.Execute(ctx, "query-status", nil, &s)
	return s, err
}

// Pause implements vm.Running. QEMU finishes what the disk is doing before it answers.
func (m *machine) Pause(ctx context.Context) error {
	m.freezing.Lock()
	defer m.freezing.Unlock()
	return m.order(ctx, "stop")
}

// Resume implements vm.Running.
func (m *machine) Resume(ctx context.Context) error {
	m.freezing.Lock()
	defer m.freezing.Unlock()
	return m.order(ctx, "cont")
}

func (m *machine) order(ctx context.Context, command string) error {
	if err := m.qmp.Execute(ctx, command, nil, nil); err != nil {
		return fmt.Errorf("%s: %w", m.saved.Dir, m.ofEnd(err))
	}
	return nil
}

// ofEnd says instead of err that the VM has ended or was released, if it has.
func (m *machine) ofEnd(err error) error {
	select {
	case <-m.releases:
		return vm.ErrReleased
	case <-m.process.Done():
		return fmt.Errorf("%w: %w", vm.ErrGone, err)
	default:
		return err
	}
}

// Snapshot implements vm.Running. QEMU writes the devices alone, and the memory is read from outside (package ram): a migration
// would send all of it through one pipe whenever it is not a shared file.
func (m *machine) Snapshot(ctx context.Context, to vm.Files) error {
	m.freezing.Lock()
	defer m.freezing.Unlock()
	before, err := m.status(ctx)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", m.saved.Dir, m.ofEnd(err))
	}
	err = m.snapshot(ctx, to)
	if err != nil && before.Running {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		err = errors.Join(err, m.order(undo, "cont"))
	}
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", m.saved.Dir, m.ofEnd(err))
	}
	return nil
}

// snapshot leaves the VM paused, and after an error no file.
func (m *machine) snapshot(ctx context.Context, to vm.Files) error {
	if err := m.order(ctx, "stop"); err != nil {
		return err
	}
	m.session.valve.shut()
	defer m.session.valve.open()
	if err := m.settle(ctx); err != nil {
		return err
	}
	if err := m.saveDevices(ctx, to.State); err != nil {
		return err
	}
	if err := m.saveMemory(ctx, to.Memory); err != nil {
		return errors.Join(err, os.Remove(to.State))
	}
	return nil
}

// settleRounds is how often QEMU has to answer until it has also dealt with what it found on the envd socket before the first question: in one round it sees
// that it may write, in the next it does.
const settleRounds = 3

// settle is called with the valve shut, and returns when QEMU moves nothing any more between the guest's memory and its end of it.
func (m *machine) settle(ctx context.Context) error {
	for range settleRounds {
		if _, err := m.status(ctx); err != nil {
			return m.ofEnd(err)
		}
	}
	return nil
}

// stateSet is the number of the descriptor set by which QEMU knows the file that it writes its state to.
const stateSet = 1

func (m *machine) saveDevices(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(m.sendDevices(ctx, f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// sendDevices uses the one command of QEMU's that saves devices without memory. It is called after Xen, whose guests' memory is not
// QEMU's either, but has nothing to do with it. live: the VM must be able to go on, so its disk is not given up.
func (m *machine) sendDevices(ctx context.Context, f *os.File) error {
	set := map[string]any{"fdset-id": stateSet}
	if err := m.qmp.ExecuteWithFile(ctx, "add-fd", set, f, nil); err != nil {
		return err
	}
	save := map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", stateSet), "live": false}
	err := m.qmp.Execute(ctx, "xen-save-devices-state", save, nil)
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	return errors.Join(err, m.qmp.Execute(undo, "remove-fd", set, nil))
}

func (m *machine) saveMemory(ctx context.Context, path string) error {
	address, err := m.memoryAddress(ctx)
	if err != nil {
		return err
	}
	size := int64(m.saved.Machine.MemoryMiB) << 20
	return ram.Save(ctx, ram.Guest{PID: m.saved.PID, Address: address, Size: size, Base: m.saved.Memory}, path)
}

var hostAddress = regexp.MustCompile(`^Host virtual address for 0x0 \([^)]*\) is 0x([0-9a-f]+)\s*$`)

// memoryAddress returns where in QEMU the guest's memory begins: all of it is one block there. Only QEMU's monitor for
// humans knows.
func (m *machine) memoryAddress(ctx context.Context) (uint64, error) {
	var answer string
	ask := map[string]any{"command-line": "gpa2hva 0"}
	if err := m.qmp.Execute(ctx, "human-monitor-command", ask, &answer); err != nil {
		return 0, err
	}
	match := hostAddress.FindStringSubmatch(answer)
	if match == nil {
		return 0, fmt.Errorf("QEMU does not say where the guest's memory is, but %q", vm.Printable(answer))
	}
	return strconv.ParseUint(match[1], 16, 64)
}
