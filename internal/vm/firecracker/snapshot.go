package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
	"github.com/wrenn-sandbox/wrenn/internal/vm/ram"
)

// undoLimit bounds what brings a VM back into its state when a snapshot failed.
const undoLimit = time.Minute

// Machine says what snapshots of VMs of spec's size are bound to. The time-stamp counter is not among it: a guest's clock is
// kvm-clock, and where the frequency differs Firecracker has KVM scale it, or refuses the state.
func (d *Driver) Machine(spec vm.Spec) vm.Machine {
	return vm.Machine{
		Driver: Name, Version: d.info.Version, Accelerator: d.info.Accelerator, CPU: vm.HostCPU(),
		VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB, Hardware: hardware(spec),
	}
}

// hardware is a digest of what boot configures, without what is the guest's own. The paths of disk and vsock, which a state holds, are among it:
// they are the same for all VMs that have a jail, and for all that have none.
func hardware(spec vm.Spec) string {
	p := placesOf(spec, files{})
	devices, err := json.Marshal([]any{rootDrive(p), vsockDevice(p), api.Entropy{}, balloon(), spec.NIC != nil})
	if err != nil {
		panic(err) // they are structs of strings, numbers and booleans
	}
	return vm.Digest(string(devices))
}

// Pause freezes the guest.
func (v *VM) Pause(ctx context.Context) error {
	v.freezing.Lock()
	defer v.freezing.Unlock()
	return v.order(ctx, api.Pause)
}

// Resume lets it go on.
func (v *VM) Resume(ctx context.Context) error {
	v.freezing.Lock()
	defer v.freezing.Unlock()
	return v.order(ctx, api.Resume)
}

// order does nothing where the VM is in that state already.
func (v *VM) order(ctx context.Context, to api.VMStateName) error {
	paused, err := v.paused(ctx)
	if err == nil && paused != (to == api.Pause) {
		err = v.api.PatchVM(ctx, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.files.dir, v.ofEnd(err))
	}
	return nil
}

func (v *VM) paused(ctx context.Context) (bool, error) {
	select {
	case <-v.released: // a call would open a connection that nobody closes
		return false, vm.ErrReleased
	default:
	}
	info, err := v.api.Instance(ctx)
	return info.State == api.Paused, err
}

// ofEnd says instead of err that the VM has ended or was released, if it has.
func (v *VM) ofEnd(err error) error {
	select {
	case <-v.released:
		return vm.ErrReleased
	case <-v.process.Done():
		return fmt.Errorf("%w: %w", vm.ErrGone, err)
	default:
		return err
	}
}

// Snapshot freezes the guest and has Firecracker write it: all of its memory, or, of one that was restored, what it has changed since
// onto a clone of the file that it was restored from.
func (v *VM) Snapshot(ctx context.Context, to vm.Files) error {
	if err := v.Whole(ctx); err != nil { // what has changed is laid over what it was restored from
		return fmt.Errorf("snapshot %s: %w", v.files.dir, err)
	}
	v.freezing.Lock()
	defer v.freezing.Unlock()
	if err := v.snapshot(ctx, to); err != nil {
		return fmt.Errorf("snapshot %s: %w", v.files.dir, v.ofEnd(err))
	}
	return nil
}

func (v *VM) snapshot(ctx context.Context, to vm.Files) error {
	wasPaused, err := v.paused(ctx)
	if err != nil {
		return err
	}
	if err := vm.MakeFiles(to); err != nil { // Firecracker would write over what is there
		return err
	}
	err = v.order(ctx, api.Pause)
	if err == nil {
		err = v.write(ctx, to)
	}
	if err == nil {
		return nil
	}
	err = errors.Join(err, os.Remove(to.State), os.Remove(to.Memory))
	if !wasPaused {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		err = errors.Join(err, v.order(undo, api.Resume))
	}
	return err
}

func (v *VM) write(ctx context.Context, to vm.Files) error {
	if err := v.writeDiff(ctx, to); !errors.Is(err, errNotTracked) {
		return err
	}
	if err := v.create(ctx, api.Full, to); err != nil {
		return err
	}
	return ram.DigHoles(ctx, to.Memory) // Firecracker writes zeros like everything else
}

// create has Firecracker write to the files of to, which are there, and to the memory over what is in it.
func (v *VM) create(ctx context.Context, kind api.SnapshotType, to vm.Files) error {
	if v.saved.Owner != 0 {
		return v.createInJail(ctx, kind, to)
	}
	return v.api.CreateSnapshot(ctx, api.SnapshotCreate{SnapshotType: kind, SnapshotPath: to.State, MemFilePath: to.Memory})
}

// errNotTracked means that it is not known what a guest has changed, and since when.
var errNotTracked = errors.New("changes are not tracked")

// writeDiff: Firecracker forgets what was changed when it has written that. So there is no link to what it is relative to while it writes,
// and afterwards one to a copy of what it wrote; whatever goes wrong, the next snapshot is a full one.
func (v *VM) writeDiff(ctx context.Context, to vm.Files) error {
	base, err := os.Readlink(v.files.tracked)
	if err != nil {
		return errNotTracked
	}
	if err := copyOver(ctx, base, to.Memory); err != nil {
		return err
	}
	if err := os.Remove(v.files.tracked); err != nil {
		return err
	}
	if err := v.create(ctx, api.Diff, to); err != nil {
		return err
	}
	if err := copyOver(ctx, to.Memory, v.files.base); err != nil {
		return errors.Join(err, os.Remove(v.files.base))
	}
	return os.Symlink(v.files.base, v.files.tracked)
}

// copyOver gives the file at path, which may be there, the content of src.
func copyOver(ctx context.Context, src, path string) error {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = clone.Into(ctx, from, to)
	return errors.Join(err, to.Close())
}
