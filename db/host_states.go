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

// HostCondition is what is wanted of a host and known of its health.
type HostCondition struct {
	Draining      bool // it takes no new sandboxes, and those that sleep leave it
	Evict         bool // those that run are paused for it
	Quarantine    string
	QuarantinedAt time.Time // zero while it is not
	DownAt        time.Time // since when it cannot be reached; zero while it can
	Since         time.Time // it is in its state
}

// State is what may be expected of the host.
func (c HostCondition) State() models.HostState {
	switch {
	case !c.DownAt.IsZero():
		return models.HostDown
	case c.Draining:
		return models.HostDraining
	case c.Quarantine != "":
		return models.HostQuarantined
	default:
		return models.HostReady
	}
}

// Closed says why the host takes no new sandboxes, as a verb and what follows; "" where it does, as far as its agent can be reached.
func (c HostCondition) Closed() string {
	switch {
	case c.Draining:
		return "is being drained"
	case c.Quarantine != "":
		return "is in quarantine"
	default:
		return ""
	}
}

func condition(r dbgen.Host) HostCondition {
	return HostCondition{
		Draining: r.Draining, Evict: r.Evict, Quarantine: r.Quarantine, QuarantinedAt: orZero(r.QuarantinedAt), DownAt: orZero(r.DownAt),
		Since: r.StateSince,
	}
}

// Holdings is how much lies on a host.
type Holdings struct {
	Running, Sleeping, Snapshots int64
}

// HeldHost is a host, what is taken of it, and what lies there.
type HeldHost struct {
	HostUse
	Holds Holdings
}

// HeldHosts lists the hosts that were neither replaced nor removed. Nothing is locked.
func (s *Store) HeldHosts(ctx context.Context) ([]HeldHost, error) {
	return retry(ctx, func(ctx context.Context) ([]HeldHost, error) {
		hosts, err := usedHosts(ctx, s.q)
		if err != nil {
			return nil, err
		}
		held, err := s.q.HostHoldings(ctx)
		if err != nil {
			return nil, fmt.Errorf("count what hosts hold: %w", err)
		}
		of := map[id.Host]Holdings{}
		for _, h := range held {
			of[id.Host(h.HostID)] = Holdings{Running: h.Running, Sleeping: h.Sleeping, Snapshots: h.Snapshots}
		}
		return convert(hosts, func(h HostUse) (HeldHost, error) { return HeldHost{HostUse: h, Holds: of[h.ID]}, nil })
	})
}

// SetDraining has a host drained, or no longer, with its audit event. evict has those that run paused, so that they leave it too. NotFound where there is no such host.
func (s *Store) SetDraining(ctx context.Context, h id.Host, by By, draining, evict bool) error {
	n, err := retry(ctx, func(ctx context.Context) (int64, error) {
		return s.q.SetDraining(ctx, dbgen.SetDrainingParams{ID: string(h), Draining: draining, Evict: evict, Actor: by.Actor, RequestID: by.Operation})
	})
	if err == nil && n == 0 {
		return missingHost(h)
	}
	return err
}

// Quarantine takes a host out, for a reason, unless it is the last one that takes sandboxes, and reports whether it did, with the audit event.
func (s *Store) Quarantine(ctx context.Context, h id.Host, reason string) (bool, error) {
	n, err := retry(ctx, func(ctx context.Context) (int64, error) {
		return s.q.Quarantine(ctx, dbgen.QuarantineParams{ID: string(h), Reason: reason})
	})
	return n > 0, err
}

// EndQuarantine lets a host take sandboxes again, and reports whether it did not.
func (s *Store) EndQuarantine(ctx context.Context, h id.Host) (bool, error) {
	n, err := retry(ctx, func(ctx context.Context) (int64, error) { return s.q.EndQuarantine(ctx, string(h)) })
	return n > 0, err
}

// RemoveHost takes a host out for good: its agent is not spoken to any more. What it holds is lost, so that without force it is Precondition where there is any. Either is written
// into the audit log.
func (s *Store) RemoveHost(ctx context.Context, h id.Host, by By, force bool) error {
	return s.judged(ctx, func(ctx context.Context, q *dbgen.Queries) (refused, err error) {
		return removeHost(ctx, q, h, by, force)
	})
}

// judged runs do in a transaction, which is committed where do refuses too, so that the refusal is in the audit log. It returns err, or else why it was refused.
func (s *Store) judged(ctx context.Context, do func(context.Context, *dbgen.Queries) (refused, err error)) error {
	refused, err := retry(ctx, func(ctx context.Context) (refused error, err error) {
		err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			refused, err = do(ctx, s.q.WithTx(tx))
			return err
		})
		return refused, err
	})
	if err == nil {
		err = refused
	}
	return err
}

func removeHost(ctx context.Context, q *dbgen.Queries, h id.Host, by By, force bool) (refused, err error) {
	if _, err := q.LockHost(ctx, string(h)); err != nil { // no placement happens meanwhile
		return nil, notFound(err, missingHost(h))
	}
	held, err := q.HeldBy(ctx, []string{string(h)})
	if err != nil {
		return nil, fmt.Errorf("count what the host holds: %w", err)
	}
	audit := dbgen.InsertHostAuditParams{Actor: by.Actor, Action: "host.remove", Target: string(h), Outcome: "ok", RequestID: by.Operation}
	if len(held) > 0 {
		n := held[0]
		holds := fmt.Sprintf("%d sandboxes that run, %d that sleep and %d snapshots", n.Running, n.Sleeping, n.Snapshots)
		if !force {
			audit.Outcome, audit.Detail = string(models.Precondition), "it holds "+holds
			refused = models.Errorf(models.Precondition, "the host %s holds %s", h, holds).WithHint("drain it first; force gives up what it holds")
			return refused, q.InsertHostAudit(ctx, audit)
		}
		audit.Detail = "gives up " + holds
	}
	if err := q.RemoveHost(ctx, string(h)); err != nil {
		return nil, fmt.Errorf("remove the host %s: %w", h, err)
	}
	return nil, q.InsertHostAudit(ctx, audit)
}

func missingHost(h id.Host) *models.Error {
	return models.Errorf(models.NotFound, "there is no host %s", h)
}

// errRemoved is why a host that an operator has removed is not taken in.
func errRemoved(err error, h string) error {
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return models.Errorf(models.Forbidden, "the host %s was removed by an operator", h).WithHint("a host with a new data folder has a new id")
}
