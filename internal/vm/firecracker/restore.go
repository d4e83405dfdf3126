package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
)

// prepared is a vm.Prepared: a Firecracker of which only the API runs.
type prepared struct {
	*configured
	vm   *VM
	once sync.Once
}

// Prepare spawns Firecracker. All that the snapshot has to fit is checked here.
func (d *Driver) Prepare(ctx context.Context, spec vm.Spec, from vm.Image) (vm.Prepared, error) {
	if err := spec.CheckRestore(from, d.Machine(spec)); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	if err := d.checkJail(spec); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", spec.ID, err)
	}
	if spec.NIC != nil && d.info.NoRestore != "" {
		return nil, fmt.Errorf("prepare %s: %s", spec.ID, d.info.NoRestore)
	}
	if from.Lazy != nil && !d.info.Lazy {
		return nil, fmt.Errorf("prepare %s: a VM whose memory comes later cannot be restored here", spec.ID)
	}
	c := &configured{driver: d, spec: spec, from: &from.Files, lazy: from.Lazy, files: filesOf(spec.Dir)}
	if err := c.files.prepare(d.jailRoot(spec), spec.Rootfs); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", spec.ID, err)
	}
	v, err := c.launch(ctx)
	if err == nil && c.lazy != nil {
		err = c.page(ctx, v)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", spec.ID, v.abandon(err)) //nolint:contextcheck // it undoes, also after ctx ended
	}
	return &prepared{configured: c, vm: v}, nil
}

// Restore loads the snapshot.
func (p *prepared) Restore(ctx context.Context) (running vm.Running, err error) {
	err = errors.New("it was restored or discarded before")
	p.once.Do(func() {
		if err = p.load(ctx); err != nil {
			err = p.vm.abandon(err) //nolint:contextcheck // it undoes, also after ctx ended
			return
		}
		running = p.vm
	})
	if err != nil {
		return nil, fmt.Errorf("restore vm in %s: %w", p.vm.files.dir, err)
	}
	return running, nil
}

// Discard ends the process.
func (p *prepared) Discard() (err error) {
	p.once.Do(func() { _, err = p.vm.Kill() })
	return err
}

// load has changed pages tracked, so that the next snapshot costs what has changed. Before version 1.15 Firecracker made wrong
// files of it for more than 3 GiB of memory.
func (p *prepared) load(ctx context.Context) error {
	tracked := p.driver.since.atLeast(1, 15)
	source := p.source()
	load := api.SnapshotLoad{
		SnapshotPath: source.State, MemBackend: api.MemBackend{BackendType: "File", BackendPath: source.Memory}, TrackDirtyPages: tracked,
	}
	if p.lazy != nil {
		load.MemBackend = api.MemBackend{BackendType: "Uffd", BackendPath: p.places().pager}
	}
	if p.spec.NIC != nil {
		load.NetworkOverrides = []api.NetworkOverride{{IfaceID: nicID, HostDevName: p.spec.NIC.TAP}}
	}
	if err := p.vm.api.LoadSnapshot(ctx, load); err != nil {
		return err
	}
	p.vm.booted.Store(true)
	if tracked {
		return os.Symlink(p.from.Memory, p.vm.files.tracked)
	}
	return nil
}
