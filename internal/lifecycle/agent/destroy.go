package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// maxGrace is the longest that a guest may take to shut down in order.
const maxGrace = time.Minute

// Destroy ends a sandbox and frees all it held, whatever it was doing. The guest gets
// grace to shut down in order, then the VM is killed. It reports whether there was
// anything to destroy; destroying again is no error. After an error a repeated
// call, or the next start of the agent, goes on where this one stopped.
func (a *Agent) Destroy(ctx context.Context, sb id.Sandbox, grace time.Duration) (existed bool, err error) {
	s, err := a.find(sb)
	if err != nil {
		return false, nil
	}
	if err := a.begin(); err != nil {
		return true, err
	}
	defer a.tasks.Done()
	s.cancel() // what is under way gives up and undoes itself
	if err := s.acquire(ctx); err != nil {
		return true, err
	}
	defer s.release()
	if _, err := a.find(sb); err != nil {
		return true, nil // a create under way, or another destroy, has removed it
	}
	// From here on it goes through, also when the caller has gone.
	undo, done := context.WithTimeout(context.WithoutCancel(ctx), undoLimit+maxGrace)
	defer done()
	rec := s.update(func(r *record) { r.State, r.Reason = Stopping, "" })
	a.changes.publish(s.view())
	if err := rec.write(a.dir(sb)); err != nil {
		a.log.Warn("could not record that a sandbox is being destroyed", "sandbox_id", sb, "error", err)
	}
	a.stopInOrder(undo, s, min(grace, maxGrace))
	return true, a.dismantle(undo, s)
}

// stopInOrder asks the guest to shut down and gives it grace. It reports nothing:
// dismantle kills whatever is left.
func (a *Agent) stopInOrder(ctx context.Context, s *sandbox, grace time.Duration) {
	machine, guest := s.machine()
	if machine == nil || guest == nil || grace <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if _, err := machine.Stop(ctx, guest.Shutdown); err != nil {
		a.log.Warn("VM could not be stopped in order", "sandbox_id", s.id, "error", err)
	}
}

// dismantle removes everything that a sandbox may have on the host, the record last.
// Every step succeeds when there is nothing to do, so it can be repeated after any crash.
// The caller holds the sandbox's turn.
func (a *Agent) dismantle(ctx context.Context, s *sandbox) error {
	machine, guest := s.machine()
	if guest != nil {
		guest.Close()
	}
	if err := a.kill(ctx, s, machine); err != nil {
		return fmt.Errorf("kill the VM of %s: %w", s.id, err)
	}
	if err := a.removeGroup(ctx, s); err != nil {
		return err
	}
	a.keepConsole(s)
	if err := a.cfg.Network.Detach(ctx, s.id); err != nil {
		return fmt.Errorf("detach the network of %s: %w", s.id, err)
	}
	slot, held := s.holds()
	if held {
		if err := a.cfg.Network.Forsake(ctx, slot); err != nil {
			return fmt.Errorf("detach the network of %s: %w", s.id, err)
		}
	}
	if err := durable.RemoveAll(a.dir(s.id)); err != nil {
		return fmt.Errorf("remove the folder of %s: %w", s.id, err)
	}
	if held {
		a.cfg.Network.Release(slot)
	}
	a.forget(s)
	return nil
}

// kill ends the sandbox's VMM: the one that is held, or, after a crash that may have come before its
// process was recorded, whatever was started for the sandbox.
func (a *Agent) kill(ctx context.Context, s *sandbox, machine vm.Running) error {
	if machine == nil {
		return vmm.KillStale(ctx, vmm.Mark{Dir: a.runDir(s.id), Disk: a.diskPath(s.id), Owner: a.ownerOf(s)})
	}
	_, err := machine.Kill()
	return err
}

// endVM ends the VM of a sandbox that stays, and forgets it. left is what of it could not be removed; after an error nothing has changed.
func (a *Agent) endVM(ctx context.Context, s *sandbox) (left, err error) {
	machine, _ := s.machine()
	if err := a.kill(ctx, s, machine); err != nil {
		return nil, err
	}
	left = a.removeGroup(ctx, s)
	if guest := s.lose(); guest != nil {
		guest.Close()
	}
	return left, nil
}

// keptConsoles is how many consoles of sandboxes that failed are kept for the operator.
const keptConsoles = 64

func (a *Agent) failedPath(sb id.Sandbox) string {
	return filepath.Join(a.cfg.Dir, "failed", string(sb)+".console.log")
}

// keepConsole saves the console of a sandbox that failed, and drops the oldest kept ones.
func (a *Agent) keepConsole(s *sandbox) {
	state := s.view().State
	text, err := vm.ReadConsole(a.runDir(s.id))
	if err != nil || len(text) == 0 || (state != Starting && state != Failed) {
		return
	}
	path := a.failedPath(s.id)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
		a.log.Warn("could not keep the console of a failed sandbox", "sandbox_id", s.id, "error", err)
		return
	}
	kept, _ := filepath.Glob(filepath.Join(a.cfg.Dir, "failed", "*.console.log"))
	age := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(kept, func(x, y string) int { return age(y).Compare(age(x)) })
	for _, old := range kept[min(keptConsoles, len(kept)):] {
		_ = os.Remove(old)
	}
}
