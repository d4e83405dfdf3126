package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Pause freezes a running sandbox into a snapshot in its folder and ends its VM. Memory and processors are given back; the disk, the network slot and
// the TAP are kept, and with them the connections that the guest has. Pausing what is paused succeeds. After an error the sandbox runs on, or has
// failed if its VM is gone. A caller that goes away does not end it, a destroy does.
func (a *Agent) Pause(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	return a.change(ctx, sb, transition{from: Running, to: Paused, do: a.freeze})
}

// freeze is the story of a pause. Until the snapshot is in its place the guest, which stands still, can go on; from then on it is the sandbox, and what
// its VM held is given back. Whatever instant the agent is killed at, settlePausing goes on from there.
func (a *Agent) freeze(ctx context.Context, s *sandbox) error {
	machine, _ := s.machine()
	if err := a.restorable(s, machine, "paused"); err != nil {
		return err
	}
	a.saveJournal(s)
	rec := s.update(func(r *record) {
		r.State, r.Reason, r.Pauses = Pausing, "", r.Pauses+1
		r.Staged = pauseName(s.id, r.Pauses)
	})
	a.changes.publish(s.view())
	err := rec.write(a.dir(s.id))
	if err == nil {
		err = a.take(ctx, s, machine)
	}
	if err != nil {
		return a.goOn(ctx, s, machine, err)
	}
	undo, done := undoContext(ctx)
	defer done()
	if err := a.shed(undo, s); err != nil {
		return a.goOn(ctx, s, machine, err)
	}
	return nil
}

// restorable refuses to make a snapshot of what could not be restored: under a VMM that cannot restore it, or that is not the one any more which it was started by.
func (a *Agent) restorable(s *sandbox, machine vm.Running, what string) error {
	if why := a.cfg.Driver.Info().NoRestore; why != "" {
		return models.Errorf(models.Precondition, "the sandbox could not be %s: %s", what, why).WithHint("it runs on")
	}
	if err := machine.Saved().Machine.CheckRestore(a.machineOf(s.view().Size)); err != nil {
		return a.explainChange(s, err, what, "it runs on")
	}
	return nil
}

// take writes the sandbox's snapshot. The disk in it is the sandbox's own under a second name: the guest stands still, and will run from a clone of it.
func (a *Agent) take(ctx context.Context, s *sandbox, machine vm.Running) error {
	store, err := a.snapshots(s)
	if err != nil {
		return err
	}
	rec := s.update(func(*record) {})
	staging, err := store.Stage(rec.Staged)
	if err != nil {
		return err
	}
	at := time.Now().UTC()
	err = machine.Snapshot(ctx, staging.Files())
	if err == nil {
		a.passOnWorkingSet(s, rec.Snapshot, staging)
		err = os.Link(a.diskPath(s.id), staging.Rootfs())
	}
	if err == nil {
		err = cmp.Or(ctx.Err(), s.ctx.Err())
	}
	if err != nil {
		return errors.Join(err, staging.Abort())
	}
	return staging.Commit(rec.manifest(snapshot.Pause, machine, at))
}

// manifest is that of a snapshot of the sandbox, whose VM is machine.
func (r record) manifest(kind snapshot.Kind, machine vm.Running, at time.Time) snapshot.Manifest {
	return snapshot.Manifest{
		Kind: kind, Sandbox: string(r.Sandbox), Parent: r.Snapshot, CreatedAt: at, Machine: machine.Saved().Machine,
		Template: snapshot.Template{Name: r.Template, Digest: r.Digest}, Kernel: r.Kernel, Envd: r.Envd, Network: true, Token: r.Token,
	}
}

// shed ends the VM of a sandbox whose snapshot is in place, and gives back what it held. It fails only where the VM cannot be ended: then nothing has changed.
// What else cannot be removed is removed by the next resume, or with the sandbox.
func (a *Agent) shed(ctx context.Context, s *sandbox) error {
	left, err := a.endVM(ctx, s)
	if err != nil {
		return fmt.Errorf("end the VM: %w", err)
	}
	rec := s.update(func(r *record) {
		r.State, r.Reason, r.Snapshot, r.Staged, r.Verified, r.Damage = Paused, "", r.Staged, "", time.Time{}, ""
	})
	// The disk before the record: one that sleeps and has a disk is being resumed.
	left = errors.Join(left, os.RemoveAll(a.diskPath(s.id)), rec.write(a.dir(s.id)), os.RemoveAll(a.basePath(s)), a.removeSnapshotsBut(s, rec.Snapshot))
	if left != nil {
		a.log.Warn("a paused sandbox holds more than it should", "sandbox_id", s.id, "error", left)
	}
	a.changes.publish(s.view())
	a.log.Info("sandbox paused", "sandbox_id", s.id, "snapshot", rec.Snapshot)
	return nil
}

// goOn undoes a pause, and returns why it failed. The snapshot, which may be in place, goes before the guest goes on, whose disk is the one in it; and it
// goes only where the VM still answers: else it may be all that there is.
func (a *Agent) goOn(ctx context.Context, s *sandbox, machine vm.Running, cause error) error {
	undo, done := undoContext(ctx)
	defer done()
	as := "it runs on"
	if lostMemory(machine) != nil {
		as = "it sleeps, as it was stored"
	}
	told := a.explainChange(s, cause, "paused", as)
	before := s.update(func(*record) {}).Snapshot
	err := machine.Pause(undo)
	if err == nil {
		err = a.removeSnapshotsBut(s, before)
	}
	if err == nil {
		err = machine.Resume(undo)
	}
	rec := s.update(func(r *record) { r.State, r.Staged = Running, "" })
	if err != nil {
		a.log.Error("pause not undone", "sandbox_id", s.id, "error", err)
		return errors.Join(told, a.ended(undo, s, machine, "it could not be paused, and does not go on: "+whyEnded(machine)))
	}
	a.tasks.Go(func() { a.setClock(s) })
	a.changes.publish(s.view())
	a.log.Warn("sandbox could not be paused; it runs on", "sandbox_id", s.id, "error", cause)
	return errors.Join(told, rec.write(a.dir(s.id)))
}

// whyEnded says how a VM ended, if it has.
func whyEnded(machine vm.Running) string {
	select {
	case <-machine.Done():
		return "its VM ended: " + machine.Exit().Reason
	default:
		return "its VM does not answer"
	}
}
