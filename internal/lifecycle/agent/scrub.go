package agent

import (
	"context"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// scrubRetry is how long a snapshot that could not be read is left alone.
const scrubRetry = 10 * time.Minute

// scrubber reads stored snapshots in turn. It is the business of one thread, which has the lowest priority and reads no faster than it may.
type scrubber struct {
	a     *Agent
	tried map[string]time.Time // snapshots that could not be read, and when
}

// keepScrubbed reads what is stored in turn until ctx ends: the snapshots of sandboxes that sleep, golden ones, and those that users have asked for.
func (a *Agent) keepScrubbed(ctx context.Context) {
	runtime.LockOSThread() // it ends with the goroutine, and its priority with it
	if err := idlePriority(); err != nil {
		a.log.Warn("snapshots are read with the priority of the agent", "error", err)
	}
	s := &scrubber{a: a, tried: map[string]time.Time{}}
	for tick := time.NewTicker(a.cfg.scrubTick); ; {
		select {
		case <-tick.C:
			s.sleepers(ctx)
			s.goldens(ctx)
			s.named(ctx)
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// idlePriority makes the calling thread run, and use the disk, when nobody else wants to: ioprio_set(2), where the class of the idle is 3 << 13.
func idlePriority() error {
	const whoProcess, idle = 1, 3 << 13
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, idle); errno != 0 {
		return errno
	}
	return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), last.nice)
}

// due tells whether a snapshot that was last found whole at verified is to be read again.
func (s *scrubber) due(name string, verified time.Time) bool {
	return time.Since(verified) >= s.a.cfg.ScrubEvery && time.Since(s.tried[name]) >= min(scrubRetry, s.a.cfg.ScrubEvery)
}

func (s *scrubber) sleepers(ctx context.Context) {
	for _, sb := range s.a.all() {
		rec := sb.update(func(*record) {})
		if ctx.Err() == nil && rec.State == Paused && s.due(rec.Snapshot, rec.Verified) {
			s.sleeper(ctx, sb, rec)
		}
	}
}

// sleeper reads the snapshot of a sandbox that sleeps, and notes what it found, unless the sandbox has woken meanwhile.
func (s *scrubber) sleeper(ctx context.Context, sb *sandbox, rec record) {
	dir := filepath.Join(s.a.dir(sb.id), "snapshots")
	one, err := snapshot.At(dir, rec.Snapshot)
	if key, unknown := one.Later(); err == nil && unknown == nil && key != "" {
		return // nothing of it is here that is not stored
	}
	if err == nil {
		_, err = s.read(ctx, one)
	}
	noted, done := context.WithTimeout(ctx, undoLimit)
	defer done()
	if ctx.Err() != nil || sb.acquire(noted) != nil {
		return
	}
	defer sb.release()
	if now := sb.update(func(*record) {}); now.State != Paused || now.Snapshot != rec.Snapshot || sb.ctx.Err() != nil {
		return
	}
	s.note(sb, err)
}

// note writes down what a snapshot was found to be. The caller holds the turn.
func (s *scrubber) note(sb *sandbox, err error) {
	var rec record
	switch {
	case err == nil:
		rec = sb.update(func(r *record) { r.Verified, r.Damage = time.Now().UTC(), "" })
	case models.CodeOf(err) == models.Precondition:
		s.tried[sb.update(func(*record) {}).Snapshot] = time.Now()
		rec = sb.update(func(r *record) { r.Damage = models.AsError(err).Message })
		s.a.log.Error("the snapshot that a sandbox sleeps in is damaged", "sandbox_id", sb.id, "snapshot", rec.Snapshot, "error", err)
	default:
		s.tried[sb.update(func(*record) {}).Snapshot] = time.Now()
		s.a.log.Warn("the snapshot that a sandbox sleeps in could not be read; it is tried again", "sandbox_id", sb.id, "error", err)
		return
	}
	if err := rec.write(s.a.dir(sb.id)); err != nil {
		s.a.log.Warn("not noted when a snapshot was found whole", "sandbox_id", sb.id, "error", err)
	}
	s.a.publish(sb)
}

// goldens reads the golden snapshots. One that is damaged is made anew.
func (s *scrubber) goldens(ctx context.Context) {
	for _, one := range s.a.golden.all() {
		known, _, err := one.Integrity()
		if err == nil && (ctx.Err() != nil || !s.due(one.ID, known.VerifiedAt)) {
			continue
		}
		if _, err = s.read(ctx, one.Snapshot); err == nil || ctx.Err() != nil {
			continue
		}
		s.tried[one.ID] = time.Now()
		if models.CodeOf(err) == models.Precondition {
			s.a.giveUp(shapeOf(one.Snapshot), one, err)
		}
	}
}

// named reads the snapshots that users have asked for. What is found damaged twice is: the control plane hears of it when it asks for the list.
func (s *scrubber) named(ctx context.Context) {
	all, err := s.a.named.store.List()
	if err != nil {
		s.a.log.Warn("snapshots not listed, and not read", "error", err)
	}
	for _, entry := range all {
		known, _, err := entry.Snapshot.Integrity()
		if entry.Err != nil || err != nil || ctx.Err() != nil || !s.due(entry.ID, known.VerifiedAt) {
			continue
		}
		if _, err = s.read(ctx, entry.Snapshot); models.CodeOf(err) == models.Precondition {
			_, err = s.read(ctx, entry.Snapshot)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case models.CodeOf(err) == models.Precondition:
			s.a.log.Error("a snapshot is damaged", "snapshot", entry.ID, "error", err)
			s.a.named.condemn(id.Snapshot(entry.ID), err)
		}
		s.tried[entry.ID] = time.Now()
	}
}

// read reads a snapshot at the pace of the scrubber, and waits while somebody waits for a VM.
func (s *scrubber) read(ctx context.Context, one snapshot.Snapshot) (snapshot.Integrity, error) {
	return one.Scrub(func() error {
		if err := s.a.giveWay(ctx); err != nil {
			return err
		}
		return s.a.scrubPace.WaitN(ctx, snapshot.ChunkSize)
	})
}
