package controller

import (
	"context"
	"errors"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// snapshotRemedy is what closes a gap between the row of a snapshot and what its host holds.
type snapshotRemedy string

const (
	markReady   snapshotRemedy = "mark_ready"   // it is there, and who had it made has not said so
	dropRow     snapshotRemedy = "drop_row"     // it was not made in time
	finishErase snapshotRemedy = "finish_erase" // the delete that somebody began
	markLost    snapshotRemedy = "mark_lost"    // its host holds nothing of it, or what is damaged
	eraseOrphan snapshotRemedy = "erase_orphan" // no row wants it
)

// snapshotGap is a snapshot whose row and host differ.
type snapshotGap struct {
	snapshotRemedy
	id   id.Snapshot
	seen hostclient.Snapshot // zero for one that the host does not have
}

// planSnapshots compares rows, which were read first, with what their host then held, and since when it was seen to hold it.
func planSnapshots(rows []db.SnapshotRow, held map[id.Snapshot]hostclient.Snapshot, since map[id.Snapshot]time.Time, now time.Time, p patience) []snapshotGap {
	var gaps []snapshotGap
	known := map[id.Snapshot]bool{}
	for _, row := range rows {
		known[row.ID] = true
		seen, here := held[row.ID]
		if r := compareSnapshot(row, seen, here, p); r != "" {
			gaps = append(gaps, snapshotGap{r, row.ID, seen})
		}
	}
	for n, seen := range held {
		if !known[n] && now.Sub(since[n]) >= p.grace {
			gaps = append(gaps, snapshotGap{eraseOrphan, n, seen})
		}
	}
	return gaps
}

func compareSnapshot(row db.SnapshotRow, seen hostclient.Snapshot, here bool, p patience) snapshotRemedy {
	whole := here && seen.Damage == ""
	switch row.State {
	case models.SnapshotCreating:
		switch {
		case whole && (row.Age >= p.settle || row.Overdue): // what is whole is not dropped, whoever is late
			return markReady
		case row.Overdue:
			return dropRow
		}
	case models.SnapshotDeleting:
		if row.Age >= p.settle {
			return finishErase
		}
	case models.SnapshotReady:
		if !whole {
			return markLost
		}
	case models.SnapshotFailed: // it stays until its user has seen it
	}
	return ""
}

// keepSnapshots compares the snapshots of one host with their rows, now and then, until ctx ends.
func (r *Reconciler) keepSnapshots(ctx context.Context, h *host) {
	since := map[id.Snapshot]time.Time{}
	for {
		if err := r.snapshots(ctx, h, since); err != nil && ctx.Err() == nil {
			r.log.Warn("snapshots of a host not reconciled", "agent", h.address, "error", err)
		}
		if !pause(ctx, r.pace.Snapshots) {
			return
		}
	}
}

func (r *Reconciler) snapshots(ctx context.Context, h *host, since map[id.Snapshot]time.Time) error {
	known, _, ok := h.view()
	if !ok {
		return nil
	}
	rows, err := r.store.SnapshotsOfHost(ctx, known)
	if err != nil {
		return err
	}
	all, err := h.client.Snapshots(ctx)
	if err != nil {
		return err
	}
	held := map[id.Snapshot]hostclient.Snapshot{}
	for _, s := range all {
		held[s.ID] = s
		if since[s.ID].IsZero() {
			since[s.ID] = time.Now()
		}
	}
	for n := range since {
		if _, still := held[n]; !still {
			delete(since, n)
		}
	}
	for _, gap := range planSnapshots(rows, held, since, time.Now(), patience{settle: r.pace.Settle, grace: r.pace.Grace}) {
		if closeErr := r.closeSnapshot(ctx, known, h.client, gap); closeErr != nil && !errors.Is(closeErr, db.ErrMoved) {
			err = errors.Join(err, closeErr)
		}
	}
	return err
}

func (r *Reconciler) closeSnapshot(ctx context.Context, h id.Host, client *hostclient.Client, g snapshotGap) error {
	switch g.snapshotRemedy {
	case markReady:
		_, err := r.c.ready(ctx, system, g.id, g.seen.Bytes)
		return err
	case dropRow:
		return r.c.Store.RemoveSnapshot(ctx, db.SnapshotChange{
			ID: g.id, From: []models.SnapshotState{models.SnapshotCreating}, By: system, Audit: db.Audit{Action: auditKeep, Outcome: string(models.Unavailable)},
		})
	case finishErase:
		return r.c.erase(ctx, system, h, g.id)
	case markLost:
		reason := reasonLost
		if g.seen.Damage != "" {
			reason = g.seen.Damage
		}
		return r.lose(ctx, g.id, reason)
	default:
		r.log.Warn("removing a snapshot that no row wants", "snapshot_id", g.id, "host_id", h)
		return client.DeleteSnapshot(ctx, g.id)
	}
}

func (r *Reconciler) lose(ctx context.Context, n id.Snapshot, reason string) error {
	_, err := r.c.Store.ChangeSnapshot(ctx, db.SnapshotChange{
		ID: n, From: []models.SnapshotState{models.SnapshotReady}, To: models.SnapshotFailed, Reason: reason, By: system,
	})
	if err == nil {
		r.log.Warn("snapshot lost", "snapshot_id", n, "reason", reason)
	}
	return err
}

// homelessSnapshots ends the rows of snapshots whose hosts were replaced or removed.
func (r *Reconciler) homelessSnapshots(ctx context.Context) {
	rows, err := r.store.HomelessSnapshots(ctx)
	for _, row := range rows {
		if row.State == models.SnapshotReady {
			err = errors.Join(err, r.lose(ctx, row.ID, "lost: "+fate(row.HostName, row.Removed)))
			continue
		}
		gone := erased(row.ID, system)
		gone.From = append(gone.From, models.SnapshotCreating)
		err = errors.Join(err, r.c.Store.RemoveSnapshot(ctx, gone))
	}
	if err != nil && ctx.Err() == nil {
		r.log.Warn("snapshots without a host not reconciled", "error", err)
	}
}
