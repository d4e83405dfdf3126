package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// takeOver looks at every sandbox folder that an earlier agent left. What runs is adopted, what is paused stays so, and what was on its way between
// the two is brought to either; what had failed stays, to be looked at and destroyed; the rest is removed.
func (a *Agent) takeOver(ctx context.Context) error {
	if err := durable.Sweep(a.dir("")); err != nil {
		return fmt.Errorf("remove what an interrupted write left: %w", err)
	}
	entries, err := os.ReadDir(a.dir(""))
	if err != nil {
		return fmt.Errorf("list the sandboxes of an earlier agent: %w", err)
	}
	intents, err := a.recallIntents()
	if err != nil {
		return fmt.Errorf("read what an earlier agent intended: %w", err)
	}
	keep := map[id.Sandbox]bool{}
	var found []*sandbox
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, e := range entries {
		folder, err := id.ParseSandbox(e.Name())
		if err != nil {
			a.log.Warn("the sandboxes folder holds something that is not a sandbox", "name", e.Name())
			continue
		}
		found = append(found, a.recall(folder))
	}
	a.disown(intents)
	for _, s := range found {
		keep[s.id] = staying[s.view().State] != nil
		group.Go(func() error { return a.settle(groupCtx, s) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := a.settleIntents(ctx, intents); err != nil {
		return fmt.Errorf("undo what an earlier agent began: %w", err)
	}
	// Devices whose sandbox has no folder any more: the agent was killed in between.
	swept, err := a.cfg.Network.Sweep(ctx, keep)
	if len(swept) > 0 {
		a.log.Warn("removed network devices of sandboxes that are gone", "sandboxes", swept)
	}
	return err
}

// recall lists a sandbox by its folder. One whose record cannot be read gets a record
// that makes settle remove it: without a record nothing durable was promised to anybody.
func (a *Agent) recall(folder id.Sandbox) *sandbox {
	rec, ok, err := readRecord(a.folder(folder))
	if err != nil {
		a.log.Error("record cannot be read; the sandbox is removed", "sandbox_id", folder, "error", err)
	}
	if _, invalid := id.ParseSandbox(string(rec.Sandbox)); !ok || invalid != nil || rec.Sandbox != folder && a.known(rec.Sandbox) {
		rec = record{Sandbox: folder, State: Stopping, Slot: -1}
	}
	if rec.Pooled {
		rec.State = Stopping
	}
	if _, err := os.Lstat(filepath.Join(a.folder(folder), diskFile)); err == nil && rec.State == Paused { // see wake
		rec.State = Resuming
	}
	s := newSandbox(rec)
	a.mu.Lock()
	a.sandboxes[s.id], a.homes[s.id] = s, folder
	a.mu.Unlock()
	a.recallJournal(s)
	return s
}

func (a *Agent) known(sb id.Sandbox) bool {
	_, err := a.find(sb)
	return err == nil
}

// staying is how each state of a sandbox that has a network is taken over.
var staying = map[State]func(*Agent, context.Context, *sandbox) error{
	Running: (*Agent).adopt, Pausing: (*Agent).settlePausing, Paused: (*Agent).settlePaused, Resuming: (*Agent).settleResuming,
}

// settle brings one recalled sandbox to a state in which it can stay.
func (a *Agent) settle(ctx context.Context, s *sandbox) error {
	if rec := s.update(func(*record) {}); rec.Slot >= 0 {
		slot, err := a.cfg.Network.Take(rec.Slot)
		if err != nil {
			return fmt.Errorf("take over the network slot of %s: %w", s.id, err)
		}
		s.hold(slot)
	}
	v := s.view()
	if take := staying[v.State]; take != nil {
		return take(a, ctx, s)
	}
	switch v.State {
	case Failed:
		return nil
	default:
		a.log.Warn("removing a sandbox that an earlier agent left half made or half destroyed",
			"sandbox_id", s.id, "state", v.State)
		return a.dismantle(ctx, s)
	}
}

func (a *Agent) adopt(ctx context.Context, s *sandbox) error {
	rec := s.update(func(*record) {})
	if _, held := s.holds(); rec.VM == nil || !held {
		return a.fail(s, "its record names no VM")
	}
	if err := a.reattach(ctx, s); err != nil {
		return err
	}
	machine, err := a.cfg.Driver.Adopt(ctx, *rec.VM)
	var lost *vm.MemoryLost
	switch {
	case errors.As(err, &lost):
		return a.sleepAgain(ctx, s, "its VM ended: "+lost.Reason)
	case errors.Is(err, vm.ErrGone):
		return a.fail(s, a.whyGone(rec))
	case err != nil:
		return fmt.Errorf("adopt the VM of %s: %w", s.id, err)
	}
	a.run(s, machine)
	a.keepMemory(s, machine)
	a.log.Info("adopted a running sandbox", "sandbox_id", s.id, "pid", rec.VM.PID)
	return nil
}

// reattach also finds what names had let in, and lets it in again where the policy is not the one that was in force: an agent was killed between
// the record of it and its enforcement.
func (a *Agent) reattach(ctx context.Context, s *sandbox) error {
	pinned, err := a.cfg.Network.Pins(ctx, s.id)
	if err == nil {
		s.pins.recall(pinned, time.Now())
		_, err = a.attach(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("re-attach the network of %s: %w", s.id, err)
	}
	s.pins.disallow(s.policy())
	for _, p := range s.pins.allowed(s.policy(), time.Now()) {
		if err := a.cfg.Network.Pin(ctx, s.id, p.Name, []netip.Addr{p.Addr}, time.Until(p.Until)); err != nil { // the guest asks again
			a.log.Warn("address of a name not pinned anew", "sandbox_id", s.id, "name", p.Name, "error", err)
		}
	}
	return nil
}

// watch waits for the VM's end and, if nobody asked for it, records what happened.
func (a *Agent) watch(s *sandbox, machine vm.Running) {
	select {
	case <-machine.Done():
	case <-s.ctx.Done(): // being destroyed, or the agent ends
		return
	}
	if s.acquire(s.ctx) != nil { // a create under way comes to its own end first
		return
	}
	defer s.release()
	now, _ := s.machine() // another one by now, where it died while it was put to sleep
	if exit := machine.Exit(); now == machine && s.view().State == Running && !exit.Asked {
		if err := a.ended(s.ctx, s, machine, "its VM ended: "+exit.Reason); err != nil {
			a.log.Error("could not record the end of a VM", "sandbox_id", s.id, "error", err)
		}
	}
}

// fail records that a sandbox's VM is gone. Its disk is kept until it is destroyed.
func (a *Agent) fail(s *sandbox, reason string) error {
	a.log.Warn("sandbox failed", "sandbox_id", s.id, "reason", reason)
	rec := s.update(func(r *record) { r.State, r.Reason = Failed, reason })
	a.changes.publish(s.view())
	return rec.write(a.dir(s.id))
}
