package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// obtain gives the sandbox a VM with a guest that is its own: one that waits for it, else one in a VMM that does, else one that is made now, also where what waited turns out
// to be of no use.
func (a *Agent) obtain(ctx context.Context, s *sandbox, tmpl filesystem.Template, env map[string]string, clock *stopwatch) (link network.Link, err error) {
	owner := envdclient.Init{Token: s.token(), Hostname: string(s.id), Env: env, DefaultUser: tmpl.DefaultUser}
	var waited *sandbox
	if waited = a.fromPool(ctx, tmpl, s.view().Size); waited != nil {
		link, err = a.handOver(ctx, s, waited, clock, owner)
	} else if one := a.spareFor(tmpl, s.view().Size); one != nil {
		waited = one.sandbox
		link, err = a.moveIn(ctx, s, one, clock, owner)
	}
	switch {
	case waited == nil:
		if err := a.prepare(ctx, s, clock); err != nil {
			return link, err
		}
		return a.bringUp(ctx, s, tmpl, env, clock)
	case err == nil || ctx.Err() != nil:
		return link, err
	}
	a.log.Warn("what was made ahead cannot be used; the VM is made anew", "sandbox_id", s.id, "vm", waited.id, "error", err)
	if err := a.startOver(ctx, s); err != nil {
		return link, err
	}
	clock.lap("move_in_failed")
	return a.bringUp(ctx, s, tmpl, env, clock)
}

// fromPool takes a VM out of the pool that still fits, or returns nil.
func (a *Agent) fromPool(ctx context.Context, tmpl filesystem.Template, size models.Size) *sandbox {
	if !a.hasPool() {
		return nil
	}
	of := shapeFor(tmpl, size)
	a.pool.ask(of, time.Now())
	for {
		one := a.pool.take(of)
		if one == nil || one.update(func(*record) {}).Digest == tmpl.Digest && !one.ended() {
			return one
		}
		a.drop(ctx, one)
	}
}

// handOver makes a VM of the pool the sandbox's, and has its guest renew what must be its own.
func (a *Agent) handOver(ctx context.Context, s, one *sandbox, clock *stopwatch, owner envdclient.Init) (network.Link, error) {
	a.inherit(s, one)
	clock.lap("take_from_pool")
	link, err := a.attach(ctx, s)
	if err != nil {
		return link, err
	}
	clock.lap("attach_network")
	machine, _ := s.machine()
	if err := a.cfg.prioritize(machine.Saved(), usual(s.view().Size)); err != nil {
		a.log.Warn("a sandbox has the priority of a VM that nobody waits for", "sandbox_id", s.id, "error", err)
	}
	if err := machine.Resume(ctx); err != nil {
		return link, fmt.Errorf("let the guest go on: %w", err)
	}
	return link, a.renew(ctx, s, link, clock, owner)
}

// inherit gives the sandbox all that a VM of the pool or a VMM that was started ahead has: process, disk, network slot and folder, which keeps its name. In the folder they change hands when a record of the
// sandbox takes the place of the VM's, which is the one that says that it runs: what an agent that was killed before leaves is a VM of the pool, and a device, and is removed.
func (a *Agent) inherit(s, one *sandbox) {
	one.cancel() // its watchers end
	slot, _ := one.holds()
	machine, guest := one.machine()
	from := one.update(func(*record) {})
	s.update(func(r *record) {
		r.Owner, r.VM, r.Size = from.Owner, from.VM, from.Size
		r.Envd, r.Kernel, r.Snapshot = from.Envd, from.Kernel, from.Snapshot
	})
	s.hold(slot)
	s.mu.Lock()
	s.vm, s.guest = machine, guest
	s.mu.Unlock()
	a.mu.Lock()
	a.homes[s.id] = one.id
	delete(a.homes, one.id)
	a.mu.Unlock()
	if machine != nil {
		a.tasks.Go(func() { a.watch(s, machine) })
	}
	a.publish(s)
}

// inUse tells whether the folder of a sandbox of this name would be another one's. The caller holds mu.
func (a *Agent) inUse(name id.Sandbox) bool {
	for _, home := range a.homes {
		if home == name {
			return true
		}
	}
	return false
}
