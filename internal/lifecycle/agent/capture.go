package agent

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// capture writes to staging what a running or paused sandbox is at one instant, and returns the manifest of that. A running one stands still for
// that instant alone: it goes on before capture returns, and has failed if it does not. Nothing else happens to it meanwhile. The caller has recorded the intent.
func (a *Agent) capture(ctx context.Context, s *sandbox, staging *snapshot.Staging, what string) (snapshot.Manifest, error) {
	if err := s.acquire(ctx); err != nil {
		return snapshot.Manifest{}, err
	}
	defer s.release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // a destroy does not wait for it
	v := s.view()
	switch {
	case s.ctx.Err() != nil:
		return snapshot.Manifest{}, models.Errorf(models.Conflict, "sandbox %s is being destroyed, or its host agent is stopping", s.id)
	case v.State == Paused:
		return a.captureSleeping(ctx, s, staging)
	case v.State == Running:
		return a.captureRunning(ctx, s, staging, what)
	default:
		return snapshot.Manifest{}, v.isNot(Running)
	}
}

// captureSleeping: the files of a snapshot never change, so that they may have a second name. The disk was given to a VM, and is cloned.
func (a *Agent) captureSleeping(ctx context.Context, s *sandbox, staging *snapshot.Staging) (snapshot.Manifest, error) {
	store, err := a.snapshots(s)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	rec := s.update(func(*record) {})
	from, err := store.Snapshot(rec.Snapshot)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	if err := from.Machine.CheckRestore(a.machineOf(rec.Size)); err != nil {
		return snapshot.Manifest{}, err
	}
	if err := a.bringMemory(ctx, from); err != nil {
		return snapshot.Manifest{}, err
	}
	have, want := from.Image().Files, staging.Files()
	err = errors.Join(os.Link(have.State, want.State), os.Link(have.Memory, want.Memory))
	if err == nil {
		_, err = clone.File(ctx, from.Rootfs(), staging.Rootfs(), true)
	}
	manifest := from.Manifest
	manifest.Token = rec.Token
	return manifest, err
}

func (a *Agent) captureRunning(ctx context.Context, s *sandbox, staging *snapshot.Staging, what string) (snapshot.Manifest, error) {
	machine, _ := s.machine()
	if err := a.restorable(s, machine, what); err != nil {
		return snapshot.Manifest{}, err
	}
	if err := a.flush(s); err != nil {
		return snapshot.Manifest{}, err
	}
	at := time.Now().UTC()
	err := a.photograph(ctx, s, machine, staging)
	undo, done := undoContext(ctx)
	defer done()
	if err := errors.Join(err, a.unfreeze(undo, s)); err != nil {
		return snapshot.Manifest{}, err
	}
	a.tasks.Go(func() { a.setClock(s) })
	rec := s.update(func(*record) {})
	manifest := rec.manifest(snapshot.Named, machine, at)
	manifest.Token = rec.Token
	return manifest, nil
}

// photograph writes the files of a VM that it leaves frozen.
func (a *Agent) photograph(ctx context.Context, s *sandbox, machine vm.Running, staging *snapshot.Staging) error {
	if err := machine.Snapshot(ctx, staging.Files()); err != nil {
		return err
	}
	_, err := clone.File(ctx, a.diskPath(s.id), staging.Rootfs(), true)
	return cmp.Or(err, ctx.Err(), s.ctx.Err()) // the latter ends ctx, a moment later
}

// flush writes out what is cloned while the guest stands still: else that has to wait for the disk (clone: reflink).
func (a *Agent) flush(s *sandbox) error {
	for _, path := range []string{a.diskPath(s.id), a.basePath(s)} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) { // a sandbox that was booted has no base
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// clockLimit bounds the wait for a guest whose clock is set.
const clockLimit = 10 * time.Second

// setClock sets the clock of a guest that stood still for a while: it is late by that.
func (a *Agent) setClock(s *sandbox) {
	ctx, cancel := context.WithTimeout(s.ctx, clockLimit)
	defer cancel()
	_, guest := s.machine()
	if guest == nil { // it has ended
		return
	}
	if err := guest.Init(ctx, envdclient.Init{Now: time.Now()}); err != nil && s.ctx.Err() == nil {
		a.log.Warn("the clock of a sandbox that stood still was not set", "sandbox_id", s.id, "error", err)
	}
}
