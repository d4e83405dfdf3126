package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// comesLater tells whether sandboxes that are fetched can be woken before their memory is here.
func (a *Agent) comesLater() bool { return a.cfg.Driver.Info().Lazy && a.cfg.MemorySource != nil }

// image is what a driver restores of the snapshot that a sandbox sleeps in. Memory that is not here comes while the VM runs or, where the driver cannot do that any more, now.
func (a *Agent) image(ctx context.Context, s *sandbox, from snapshot.Snapshot) (vm.Image, error) {
	image := from.Image()
	key, err := from.Later()
	if err != nil || key == "" {
		return image, err
	}
	if !a.comesLater() {
		return image, a.bringMemory(ctx, from)
	}
	source, err := a.cfg.MemorySource(key)
	if err == nil {
		err = from.EmptyMemory() // of an earlier attempt
	}
	image.Lazy = &vm.Lazy{Source: source, First: a.workingSet(s, from.WorkingSet()), Record: a.recordedSet(s)}
	return image, err
}

// bringMemory brings what is missing of a snapshot's memory, if anything is.
func (a *Agent) bringMemory(ctx context.Context, from snapshot.Snapshot) error {
	if from.NeedMemory() == nil {
		return nil
	}
	archive, err := a.Archive()
	if err != nil {
		return err
	}
	return archive.BringMemory(ctx, from)
}

// recordedSet is the file for what a sandbox's guest came to first when it was woken.
func (a *Agent) recordedSet(s *sandbox) string {
	return filepath.Join(a.runDir(s.id), "workingset.json")
}

func (a *Agent) workingSet(s *sandbox, path string) []int64 {
	set, err := pager.ReadWorkingSet(path)
	if err != nil {
		a.log.Warn("a working set is left alone", "sandbox_id", s.id, "error", err)
	}
	return set
}

// passOnWorkingSet puts into a snapshot that is being made what the guest came to first when it was last woken before its memory was here. Without it the next time takes longer.
func (a *Agent) passOnWorkingSet(s *sandbox, before string, staging *snapshot.Staging) {
	set := a.workingSet(s, a.recordedSet(s))
	if len(set) == 0 {
		set = a.workingSet(s, snapshot.Snapshot{Dir: filepath.Join(a.dir(s.id), "snapshots", before)}.WorkingSet())
	}
	if len(set) == 0 {
		return
	}
	if err := pager.WriteWorkingSet(staging.WorkingSet(), set); err != nil {
		a.log.Warn("a working set is not passed on", "sandbox_id", s.id, "error", err)
	}
}

// memoryRetry is how long a disk is left alone on which memory could not be made to last.
const memoryRetry = time.Minute

// keepMemory sees to it that the memory lasts which a sandbox was woken without, once it has come. Until then the sandbox needs what is stored. The caller holds the turn.
func (a *Agent) keepMemory(s *sandbox, machine vm.Running) {
	name := s.update(func(*record) {}).Snapshot
	dir := filepath.Join(a.dir(s.id), "snapshots")
	if key, err := (snapshot.Snapshot{Dir: filepath.Join(dir, name)}).Later(); err == nil && key == "" {
		return
	}
	a.tasks.Go(func() {
		if err := a.awaitMemory(s, machine, dir, name); err != nil {
			a.log.Error("the memory of a sandbox is not what was stored", "sandbox_id", s.id, "error", err)
			a.endWrong(s, machine)
		}
	})
}

// awaitMemory first leaves the guest alone for as long as it is recorded what it comes to. A sandbox that ends, or is frozen, has no more need of it. An error says that what
// has come is wrong.
func (a *Agent) awaitMemory(s *sandbox, machine vm.Running, dir, name string) error {
	if !lives(s, machine, a.cfg.leisure) || machine.Whole(s.ctx) != nil {
		return nil //nolint:nilerr // who watches the VM says why
	}
	for {
		from, err := snapshot.At(dir, name)
		if err == nil {
			err = from.MemoryCame(s.ctx)
		}
		switch now, _ := s.machine(); {
		case now != machine || s.ctx.Err() != nil:
			return nil //nolint:nilerr // there is nothing to last any more
		case err == nil:
			a.log.Info("the memory of a sandbox has come", "sandbox_id", s.id, "snapshot", name)
			return nil
		case models.CodeOf(err) == models.Precondition:
			return err
		}
		a.log.Warn("the memory of a sandbox has come, and may not last; it is tried again", "sandbox_id", s.id, "error", err)
		if !lives(s, machine, memoryRetry) {
			return nil
		}
	}
}

// lives waits, and tells whether the VM still runs then, and nobody wants the sandbox gone or the agent ended.
func lives(s *sandbox, machine vm.Running, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-machine.Done():
	case <-s.ctx.Done():
	}
	return false
}

// endWrong ends a VM whose memory is wrong.
func (a *Agent) endWrong(s *sandbox, machine vm.Running) {
	if s.acquire(s.ctx) != nil {
		return
	}
	defer s.release()
	if now, _ := s.machine(); now != machine || s.view().State != Running {
		return
	}
	undo, done := undoContext(s.ctx)
	defer done()
	if err := a.sleepAgain(undo, s, "its VM was ended, since the memory that came was not what was stored"); err != nil {
		a.log.Error("a sandbox does not sleep again", "sandbox_id", s.id, "error", err)
	}
}

// sleepAgain has a sandbox sleep in what it was woken from, when memory could not be brought that was to come: what is stored is there still. What its guest did
// since is forgotten. The caller holds the turn.
func (a *Agent) sleepAgain(ctx context.Context, s *sandbox, why string) error {
	store, err := a.snapshots(s)
	if err != nil {
		return errors.Join(err, a.fail(s, why))
	}
	from, err := store.Snapshot(s.update(func(*record) {}).Snapshot)
	if err != nil {
		return errors.Join(err, a.fail(s, why))
	}
	// The guest in it knows the token, and perhaps the address, of before. An agent that finds this record undoes a resume.
	rec := s.update(func(r *record) { r.State, r.Token, r.Guest, r.Staged = Resuming, from.Token, "", "" })
	if err := rec.write(a.dir(s.id)); err != nil {
		a.log.Warn("not recorded that a sandbox is to sleep again", "sandbox_id", s.id, "error", err)
	}
	if err := a.putBack(ctx, s, why); err != nil {
		return fmt.Errorf("put %s back to sleep: %w", s.id, err)
	}
	a.log.Warn("a sandbox sleeps again in what is stored of it", "sandbox_id", s.id, "reason", why)
	return nil
}

// ended records that a VM has ended, or does not go on. The sandbox has failed, or sleeps again where that was for its memory. The caller holds the turn.
func (a *Agent) ended(ctx context.Context, s *sandbox, machine vm.Running, reason string) error {
	if lostMemory(machine) == nil {
		return a.fail(s, reason)
	}
	undo, done := undoContext(ctx)
	defer done()
	return a.sleepAgain(undo, s, reason)
}

// lostMemory returns why a VM was ended for its memory; nil where it was not.
func lostMemory(machine vm.Running) error {
	select {
	case <-machine.Done():
		if exit := machine.Exit(); exit.MemoryLost {
			return &vm.MemoryLost{Reason: exit.Reason}
		}
	default:
	}
	return nil
}
