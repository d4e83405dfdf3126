package agent

import "context"

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
	if err := a.adopt(ctx, s); err != nil || s.view().State != Pausing {
		return err
	}
	a.log.Warn("undoing a pause that an earlier agent began", "sandbox_id", s.id)
	machine, _ := s.machine()
	if err := machine.Resume(ctx); err != nil {
		return a.ended(ctx, s, machine, "its host agent ended while it was being paused, and it does not go on")
	}
	a.tasks.Go(func() { a.setClock(s) })
	return s.update(func(r *record) { r.State, r.Staged = Running, "" }).write(a.dir(s.id))
}

// settlePaused takes over a sandbox that sleeps.
func (a *Agent) settlePaused(ctx context.Context, s *sandbox) error { return a.reattach(ctx, s) }

// settleResuming undoes a resume that an agent was killed in.
func (a *Agent) settleResuming(ctx context.Context, s *sandbox) error {
	a.log.Warn("undoing a resume that an earlier agent began", "sandbox_id", s.id)
	if err := a.putBack(ctx, s, "its host agent ended while it was being resumed"); err != nil {
		return err
	}
	return a.settlePaused(ctx, s)
}
