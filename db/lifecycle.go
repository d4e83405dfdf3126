package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// setLifecycle fills in what a row says of a sandbox's lifecycle.
func setLifecycle(sb *models.Sandbox, r dbgen.Sandbox) {
	sb.Lifecycle = models.Lifecycle{
		AutoPause: fromSeconds(r.AutoPauseSeconds), AutoHibernate: fromSeconds(r.AutoHibernateSeconds), AutoDestroy: fromSeconds(r.AutoDestroySeconds),
		Timeout: fromSeconds(r.TimeoutSeconds), OnTimeout: models.TimeoutAction(r.OnTimeout),
	}
	sb.Damage = r.Damage
	sb.UsedUntil, sb.AsleepSince, sb.TimeoutAt, sb.VerifiedAt = r.UsedUntil, orZero(r.AsleepSince), orZero(r.TimeoutAt), orZero(r.VerifiedAt)
}

func fromSeconds(s int32) time.Duration { return time.Duration(s) * time.Second }

func seconds(d time.Duration) int32 { return int32(d / time.Second) }

// Use has a sandbox of account count as used for a while from now on, and returns it as it is then: one that is about to be put to
// sleep is so already. NotFound where there is none.
func (s *Store) Use(ctx context.Context, account id.Account, sb id.Sandbox, lease time.Duration) (models.Sandbox, error) {
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		row, err := s.q.UseSandbox(ctx, dbgen.UseSandboxParams{ID: string(sb), AccountID: string(account), LeaseSeconds: lease.Seconds()})
		if err != nil {
			return models.Sandbox{}, notFound(err, missing(sb))
		}
		return sandbox(row)
	})
}

// RenewUses is Use for those of many that run and would be paused for want of use.
func (s *Store) RenewUses(ctx context.Context, used []id.Sandbox, lease time.Duration) error {
	ids := make([]string, len(used))
	for i, sb := range used {
		ids[i] = string(sb)
	}
	if err := s.q.RenewUses(ctx, dbgen.RenewUsesParams{IDs: ids, LeaseSeconds: lease.Seconds()}); err != nil {
		return fmt.Errorf("note which sandboxes are used: %w", coded(err))
	}
	return nil
}

// Due is a sandbox that its lifecycle may have something in store for.
type Due struct {
	models.Sandbox
	Now     time.Time // by the database's clock, as all times of the sandbox
	claimed time.Time
}

// ClaimDue returns up to most sandboxes that it is time to look at. Until claim has passed no other replica gets them.
func (s *Store) ClaimDue(ctx context.Context, most int, claim time.Duration) ([]Due, error) {
	rows, err := s.q.ClaimDue(ctx, dbgen.ClaimDueParams{MaxRows: int32(most), ClaimSeconds: claim.Seconds()})
	if err != nil {
		return nil, fmt.Errorf("claim sandboxes that are due: %w", coded(err))
	}
	return convert(rows, func(r dbgen.Sandbox) (Due, error) {
		sb, err := sandbox(r)
		claimed := orZero(r.LookAt)
		return Due{Sandbox: sb, Now: claimed.Add(-claim), claimed: claimed}, err
	})
}

// LookAgain has a sandbox that was claimed come up again at a time, or, if that is zero, when its state or its lifecycle changes.
func (s *Store) LookAgain(ctx context.Context, d Due, at time.Time) error {
	p := dbgen.LookAgainParams{ID: string(d.ID), Claimed: d.claimed}
	if !at.IsZero() {
		p.At = &at
	}
	return coded(s.q.LookAgain(ctx, p))
}

// Postpone has a sandbox that what was due has failed for come up again after a while.
func (s *Store) Postpone(ctx context.Context, sb id.Sandbox, wait time.Duration) error {
	return coded(s.q.PostponeLook(ctx, dbgen.PostponeLookParams{ID: string(sb), WaitSeconds: wait.Seconds()}))
}

// NoteScrub writes down what was found of the snapshot that a sandbox sleeps in, unless the sandbox is another one by now. News of damage is an event.
func (s *Store) NoteScrub(ctx context.Context, row Row, by By, verified time.Time, damage string) error {
	p := dbgen.NoteScrubParams{ID: string(row.ID), Generation: row.Generation, Damage: damage, Actor: by.Actor, Operation: by.Operation}
	if !verified.IsZero() {
		p.VerifiedAt = &verified
	}
	_, err := s.q.NoteScrub(ctx, p)
	return coded(err)
}

// StillFunc tells whether a change is still to be made of a sandbox as it is at now. Nothing else changes the sandbox meanwhile.
type StillFunc func(sb models.Sandbox, now time.Time) bool

// TransitionIf is Transition where still says so; otherwise the sandbox is returned as it is, with ErrMoved.
func (s *Store) TransitionIf(ctx context.Context, c Change, still StillFunc) (models.Sandbox, error) {
	defer s.tell()
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		var changed models.Sandbox
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			c.carrier = s.carrier()
			changed, err = transitionIf(ctx, s.q.WithTx(tx), c, still)
			return err
		})
		return s.movedOr(ctx, c, changed, err)
	})
}

func transitionIf(ctx context.Context, q *dbgen.Queries, c Change, still StillFunc) (models.Sandbox, error) {
	row, err := q.LockSandbox(ctx, string(c.ID))
	if err != nil {
		return models.Sandbox{}, err // movedOr tells one that is missing
	}
	now, err := q.Now(ctx)
	if err != nil {
		return models.Sandbox{}, err
	}
	sb, err := sandbox(row)
	if err != nil {
		return models.Sandbox{}, err
	}
	if !still(sb, now) {
		return models.Sandbox{}, pgx.ErrNoRows // as for a row that was not in the state expected; it may have been an earlier attempt of ours
	}
	return transition(ctx, q, c)
}

// LifecycleFunc refuses a change of a sandbox's lifecycle, or returns what it is to be. Nothing else changes the sandbox meanwhile. It must not block.
type LifecycleFunc func(now models.Sandbox) (models.Lifecycle, error)

// ChangeLifecycle gives a sandbox of account the lifecycle that change returns, with its audit row, and returns the sandbox. restart has its timeout
// begin now. When change fails nothing is changed and its error is returned.
func (s *Store) ChangeLifecycle(ctx context.Context, account id.Account, sb id.Sandbox, by By, restart bool, change LifecycleFunc) (models.Sandbox, error) {
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		var changed models.Sandbox
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			q := s.q.WithTx(tx)
			row, err := q.LockSandboxOfAccount(ctx, dbgen.LockSandboxOfAccountParams{ID: string(sb), AccountID: string(account)})
			if err != nil {
				return notFound(err, missing(sb))
			}
			now, err := sandbox(row)
			if err != nil {
				return err
			}
			l, err := change(now)
			if err == nil {
				changed, err = writeLifecycle(ctx, q, sb, by, restart, l)
			}
			return err
		})
		return changed, err
	})
}

func writeLifecycle(ctx context.Context, q *dbgen.Queries, sb id.Sandbox, by By, restart bool, l models.Lifecycle) (models.Sandbox, error) {
	changed, err := q.SetLifecycle(ctx, dbgen.SetLifecycleParams{
		ID: string(sb), Actor: by.Actor, RequestID: by.Operation, RestartTimeout: restart,
		AutoPauseSeconds: seconds(l.AutoPause), AutoHibernateSeconds: seconds(l.AutoHibernate), AutoDestroySeconds: seconds(l.AutoDestroy),
		TimeoutSeconds: seconds(l.Timeout), OnTimeout: string(l.OnTimeout),
	})
	if err != nil {
		return models.Sandbox{}, fmt.Errorf("change the lifecycle of %s: %w", sb, err)
	}
	return sandbox(dbgen.Sandbox(changed))
}
