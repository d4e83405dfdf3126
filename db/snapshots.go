package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// NewSnapshot is a snapshot that does not exist yet.
type NewSnapshot struct {
	ID      id.Snapshot
	Account id.Account
	Sandbox id.Sandbox
	Host    id.Host // on which that is
	Name    string
	By      By
	Within  time.Duration // until when it must be ready
}

// CreateSnapshot inserts a snapshot in state creating, with what its sandbox's row says. When fit fails nothing is inserted and its error is returned. ErrMoved when the
// sandbox neither runs nor is paused. An id that is taken gives Conflict: draw another.
func (s *Store) CreateSnapshot(ctx context.Context, n NewSnapshot, fit FitFunc) (models.Snapshot, error) {
	return retry(ctx, func(ctx context.Context) (models.Snapshot, error) {
		var made models.Snapshot
		err := s.placing(ctx, func(q *dbgen.Queries, p *placing) error {
			_, err := p.choose(ctx, q, func(hosts []*HostUse) (id.Host, error) { return n.Host, fit(hosts) })
			if err == nil {
				err = bind(ctx, q, n.By.Claim, n.ID)
			}
			if err == nil {
				made, err = insertSnapshot(ctx, q, n)
			}
			if err == nil {
				err = takePool(ctx, q, n.Account, made.Size.Stored())
			}
			return err
		})
		if isUnique(err) {
			return s.keptBefore(ctx, n)
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return models.Snapshot{}, ErrMoved
		}
		return made, err
	})
}

func insertSnapshot(ctx context.Context, q *dbgen.Queries, n NewSnapshot) (models.Snapshot, error) {
	row, err := q.InsertSnapshot(ctx, dbgen.InsertSnapshotParams{
		ID: string(n.ID), AccountID: string(n.Account), SandboxID: string(n.Sandbox), Name: n.Name,
		Actor: n.By.Actor, Operation: n.By.Operation, DeadlineSeconds: n.Within.Seconds(),
	})
	if err != nil {
		return models.Snapshot{}, fmt.Errorf("insert snapshot: %w", err)
	}
	return snapshot(dbgen.Snapshot(row))
}

// keptBefore returns the snapshot when this very operation has inserted it: its connection broke after the commit and before the answer.
func (s *Store) keptBefore(ctx context.Context, n NewSnapshot) (models.Snapshot, error) {
	row, err := s.q.SnapshotOfAccount(ctx, dbgen.SnapshotOfAccountParams{ID: string(n.ID), AccountID: string(n.Account)})
	if err == nil && row.Operation == n.By.Operation {
		return snapshot(row)
	}
	return models.Snapshot{}, models.Errorf(models.Conflict, "the snapshot id %s is taken", n.ID)
}

// SnapshotChange is one change of a snapshot's state.
type SnapshotChange struct {
	ID     id.Snapshot
	From   []models.SnapshotState // one of which it must be in
	To     models.SnapshotState
	Reason string
	Bytes  int64 // 0 leaves them
	By     By
	Audit  Audit
}

// ChangeSnapshot applies c and returns the new row, or ErrMoved. A change that its own earlier attempt had made counts as moved.
func (s *Store) ChangeSnapshot(ctx context.Context, c SnapshotChange) (models.Snapshot, error) {
	return retry(ctx, func(ctx context.Context) (models.Snapshot, error) {
		row, err := s.q.ChangeSnapshot(ctx, dbgen.ChangeSnapshotParams{
			ID: string(c.ID), FromStates: texts(c.From), ToState: string(c.To), Reason: c.Reason, Bytes: c.Bytes,
			Actor: c.By.Actor, Operation: c.By.Operation, AuditAction: c.Audit.Action, AuditOutcome: c.Audit.Outcome,
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return models.Snapshot{}, ErrMoved
		}
		if err != nil {
			return models.Snapshot{}, fmt.Errorf("change snapshot %s to %s: %w", c.ID, c.To, err)
		}
		return snapshot(dbgen.Snapshot(row))
	})
}

// RemoveSnapshot deletes the row of a snapshot that is in one of the states of c.From, whose To does not matter. It succeeds when there is none.
func (s *Store) RemoveSnapshot(ctx context.Context, c SnapshotChange) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.RemoveSnapshot(ctx, dbgen.RemoveSnapshotParams{
			ID: string(c.ID), FromStates: texts(c.From),
			Actor: c.By.Actor, Operation: c.By.Operation, AuditAction: c.Audit.Action, AuditOutcome: c.Audit.Outcome,
		})
	})
	return err
}

func texts(states []models.SnapshotState) []string {
	out := make([]string, len(states))
	for i, s := range states {
		out[i] = string(s)
	}
	return out
}

// Snapshot returns a snapshot of account, or NotFound.
func (s *Store) Snapshot(ctx context.Context, account id.Account, n id.Snapshot) (models.Snapshot, error) {
	return retry(ctx, func(ctx context.Context) (models.Snapshot, error) {
		row, err := s.q.SnapshotOfAccount(ctx, dbgen.SnapshotOfAccountParams{ID: string(n), AccountID: string(account)})
		if err != nil {
			return models.Snapshot{}, notFound(err, models.Errorf(models.NotFound, "there is no snapshot %s", n))
		}
		return snapshot(row)
	})
}

// SnapshotFilter chooses snapshots of a list.
type SnapshotFilter struct {
	Account  id.Account
	Sandbox  id.Sandbox // "" for those of all
	Before   time.Time  // only those that come after (Before, BeforeID) in the list; zero for the first page
	BeforeID id.Snapshot
	Limit    int
}

// Snapshots returns snapshots, newest first.
func (s *Store) Snapshots(ctx context.Context, f SnapshotFilter) ([]models.Snapshot, error) {
	p := dbgen.ListSnapshotsParams{AccountID: string(f.Account), Sandbox: orNil(f.Sandbox), BeforeID: string(f.BeforeID), MaxRows: int32(f.Limit)}
	if !f.Before.IsZero() {
		p.Before = &f.Before
	}
	return retry(ctx, func(ctx context.Context) ([]models.Snapshot, error) {
		rows, err := s.q.ListSnapshots(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		return convert(rows, snapshot)
	})
}

// SnapshotRow is what a reconciler needs to know of a snapshot.
type SnapshotRow struct {
	ID       id.Snapshot
	State    models.SnapshotState
	Overdue  bool          // it should be ready
	Age      time.Duration // since its state last changed
	HostName string        // only from HomelessSnapshots
	Removed  bool          // likewise: its host was, and not replaced
}

// SnapshotsOfHost returns those that h should hold.
func (s *Store) SnapshotsOfHost(ctx context.Context, h id.Host) ([]SnapshotRow, error) {
	return retry(ctx, func(ctx context.Context) ([]SnapshotRow, error) {
		rows, err := s.q.SnapshotsOfHost(ctx, string(h))
		if err != nil {
			return nil, fmt.Errorf("list the snapshots of host %s: %w", h, err)
		}
		return convert(rows, func(r dbgen.SnapshotsOfHostRow) (SnapshotRow, error) {
			return SnapshotRow{
				ID: id.Snapshot(r.ID), State: models.SnapshotState(r.State), Overdue: r.Overdue, Age: time.Duration(r.AgeSeconds * float64(time.Second)),
			}, nil
		})
	})
}

// HomelessSnapshots returns those of hosts that were replaced or removed.
func (s *Store) HomelessSnapshots(ctx context.Context) ([]SnapshotRow, error) {
	return retry(ctx, func(ctx context.Context) ([]SnapshotRow, error) {
		rows, err := s.q.HomelessSnapshots(ctx)
		if err != nil {
			return nil, fmt.Errorf("list snapshots without a host: %w", err)
		}
		return convert(rows, func(r dbgen.HomelessSnapshotsRow) (SnapshotRow, error) {
			return SnapshotRow{ID: id.Snapshot(r.ID), State: models.SnapshotState(r.State), HostName: r.HostName, Removed: r.HostRemoved}, nil
		})
	})
}

func snapshot(r dbgen.Snapshot) (models.Snapshot, error) {
	n := models.Snapshot{
		ID: id.Snapshot(r.ID), Account: id.Account(r.AccountID), Host: id.Host(r.HostID), Sandbox: id.Sandbox(r.SandboxID), Name: r.Name, Template: r.Template,
		Size:  models.Size{VCPUs: int(r.VCPUs), MemoryMiB: int(r.MemoryMiB), DiskMiB: int(r.DiskMiB)},
		State: models.SnapshotState(r.State), Reason: r.Reason, Bytes: r.Bytes, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if r.ParentID != nil {
		n.Parent = id.Snapshot(*r.ParentID)
	}
	var err error
	if n.Network, err = decodeNetwork(r.Network); err != nil {
		return n, fmt.Errorf("decode the network policy of %s: %w", r.ID, err)
	}
	return n, nil
}
