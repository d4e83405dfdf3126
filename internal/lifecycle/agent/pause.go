package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Pause freezes a running sandbox into a snapshot in its folder and ends its VM. Memory and processors are given back; the disk, the network slot and
// the TAP are kept, and with them the connections that the guest has. Pausing what is paused succeeds. After an error the sandbox runs on, or has
// failed if its VM is gone. A caller that goes away does not end it, a destroy does.
func (a *Agent) Pause(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	return a.change(ctx, sb, transition{from: Running, to: Paused, do: a.freeze})
}

// transition brings a sandbox from one state in which it can stay to another.
type transition struct {
	from, to State
	do       func(context.Context, *sandbox) error
}

func (a *Agent) change(ctx context.Context, sb id.Sandbox, t transition) (Sandbox, error) {
	s, err := a.find(sb)
	if err != nil {
		return Sandbox{}, err
	}
	if err := a.begin(); err != nil {
		return Sandbox{}, err
	}
	defer a.tasks.Done()
	if err := s.acquire(ctx); err != nil {
		return Sandbox{}, err
	}
	defer s.release()
	switch v := s.view(); {
	case s.ctx.Err() != nil:
		return Sandbox{}, models.Errorf(models.Conflict, "sandbox %s is being destroyed, or its host agent is stopping", sb)
	case v.State == t.to:
		return v, nil
	case v.State != t.from:
		return Sandbox{}, v.isNot(t.from)
	}
	ctx, cancel := outlive(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err = t.do(ctx, s)
	return s.view(), err
}

// freeze is the story of a pause. Until the snapshot is in its place the guest, which stands still, can go on; from then on it is the sandbox, and what
// its VM held is given back. Whatever instant the agent is killed at, settlePausing goes on from there.
func (a *Agent) freeze(ctx context.Context, s *sandbox) error {
	a.saveJournal(s)
	machine, _ := s.machine()
	rec := s.update(func(r *record) {
		r.State, r.Reason, r.Pauses = Pausing, "", r.Pauses+1
		r.Staged = fmt.Sprintf("%s-pause-%d", s.id, r.Pauses)
	})
	a.changes.publish(s.view())
	err := machine.Saved().Machine.CheckRestore(a.cfg.Driver.Machine(a.spec(s, network.Link{}))) // what could not be resumed is not paused
	if err == nil {
		err = rec.write(a.dir(s.id))
	}
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
		err = os.Link(a.diskPath(s.id), staging.Rootfs())
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(err, staging.Abort())
	}
	return staging.Commit(snapshot.Manifest{
		Kind: snapshot.Pause, Sandbox: string(s.id), Parent: rec.Snapshot, CreatedAt: at, Machine: machine.Saved().Machine,
		Template: snapshot.Template{Name: rec.Template, Digest: rec.Digest}, Kernel: rec.Kernel, Envd: rec.Envd, Network: true,
	})
}

// shed ends the VM of a sandbox whose snapshot is in place, and gives back what it held. It fails only where the VM cannot be ended: then nothing has changed.
// What else cannot be removed is removed by the next resume, or with the sandbox.
func (a *Agent) shed(ctx context.Context, s *sandbox) error {
	machine, _ := s.machine()
	if err := a.kill(ctx, s, machine); err != nil {
		return fmt.Errorf("end the VM: %w", err)
	}
	left := a.removeGroup(ctx, s)
	if guest := s.lose(); guest != nil {
		guest.Close()
	}
	rec := s.update(func(r *record) { r.State, r.Reason, r.Snapshot, r.Staged = Paused, "", r.Staged, "" })
	left = errors.Join(left, rec.write(a.dir(s.id)), os.RemoveAll(a.diskPath(s.id)), a.removeSnapshotsBut(s, rec.Snapshot))
	if left != nil {
		a.log.Warn("a paused sandbox holds more than it should", "sandbox_id", s.id, "error", left)
	}
	a.changes.publish(s.view())
	a.log.Info("sandbox paused", "sandbox_id", s.id, "snapshot", rec.Snapshot)
	return nil
}

// goOn undoes a pause, and returns why it failed. The snapshot, which may be in place, goes first: its disk is the one that the guest goes on with.
func (a *Agent) goOn(ctx context.Context, s *sandbox, machine vm.Running, cause error) error {
	undo, done := undoContext(ctx)
	defer done()
	told := a.explainPause(s, cause)
	before := s.update(func(*record) {}).Snapshot
	err := a.removeSnapshotsBut(s, before)
	if err == nil {
		err = machine.Resume(undo)
	}
	rec := s.update(func(r *record) { r.State, r.Staged = Running, "" })
	if err != nil {
		a.log.Error("pause not undone", "sandbox_id", s.id, "error", err)
		return errors.Join(told, a.fail(s, "it could not be paused, and does not go on: "+whyEnded(machine)))
	}
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

func (a *Agent) explainPause(s *sandbox, err error) error {
	return a.explainChange(s, err, "paused", "it runs on")
}

// explainChange says why a pause or a resume failed. as is what is true of the sandbox afterwards.
func (a *Agent) explainChange(s *sandbox, err error, what, as string) error {
	var coded *models.Error
	var mismatch *vm.Mismatch
	failed := func(code models.Code, why string) error {
		return models.Errorf(code, "the sandbox could not be %s: %s", what, why).WithCause(err).WithHint("%s", as)
	}
	switch {
	case s.ctx.Err() != nil:
		return models.Errorf(models.Conflict, "sandbox %s was destroyed, or its host agent stopped, while it was being %s", s.id, what).WithCause(err)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return failed(models.Exhausted, "the host's disk is full")
	case errors.As(err, &mismatch):
		return failed(models.Precondition, mismatch.Error())
	case errors.Is(err, vm.ErrGone), errors.Is(err, errDied):
		return failed(models.Unavailable, "its VM ended")
	case errors.Is(err, context.DeadlineExceeded):
		return failed(models.Deadline, "the time allowed ran out")
	case errors.As(err, &coded):
		if coded.Hint != "" {
			as = coded.Hint + "; " + as
		}
		return models.Errorf(coded.Code, "%s", coded.Message).WithCause(err).WithHint("%s", as)
	default:
		return failed(models.Internal, "its host could not do it")
	}
}

// settlePausing goes on where an agent was killed during a pause: forward where the snapshot is in its place, else back.
func (a *Agent) settlePausing(ctx context.Context, s *sandbox) error {
	store, err := a.snapshots(s)
	if err != nil {
		return err
	}
	rec := s.update(func(*record) {})
	if _, missing := store.Snapshot(rec.Staged); missing == nil {
		a.log.Warn("finishing a pause that an earlier agent began", "sandbox_id", s.id)
		if err := a.shed(ctx, s); err != nil {
			return err
		}
		return a.settlePaused(ctx, s)
	}
	if err := a.removeSnapshotsBut(s, rec.Snapshot); err != nil {
		return err
	}
	if err := a.adopt(ctx, s); err != nil || s.view().State == Failed {
		return err
	}
	a.log.Warn("undoing a pause that an earlier agent began", "sandbox_id", s.id)
	machine, _ := s.machine()
	if err := machine.Resume(ctx); err != nil {
		return a.fail(s, "its host agent ended while it was being paused, and it does not go on")
	}
	return s.update(func(r *record) { r.State, r.Staged = Running, "" }).write(a.dir(s.id))
}

// settlePaused takes over a sandbox that sleeps.
func (a *Agent) settlePaused(ctx context.Context, s *sandbox) error { return a.reattach(ctx, s) }
