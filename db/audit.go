package db

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// AuditEvent is one entry of the audit log.
type AuditEvent struct {
	ID                                        int64 // grows
	Actor, Action, Target, Outcome, RequestID string
	At                                        time.Time
}

// AuditFilter chooses entries of an account's audit log. What is empty does not matter.
type AuditFilter struct {
	Account                                   id.Account
	Actor, Action, Target, Outcome, RequestID string
	Since, Until                              time.Time // the latter is not in it any more
	Before                                    int64     // only those with smaller ids; 0 for the first page
	Limit                                     int
}

// AuditLog returns the last events of an account, newest first.
func (s *Store) AuditLog(ctx context.Context, account id.Account, limit int) ([]AuditEvent, error) {
	return s.Audit(ctx, AuditFilter{Account: account, Limit: limit})
}

// Audit returns events of an account, newest first.
func (s *Store) Audit(ctx context.Context, f AuditFilter) ([]AuditEvent, error) {
	p := dbgen.ListAuditParams{
		AccountID: string(f.Account), Actor: orNil(f.Actor), Action: orNil(f.Action), Target: orNil(f.Target), Outcome: orNil(f.Outcome),
		RequestID: orNil(f.RequestID), Since: timeOrNil(f.Since), Until: timeOrNil(f.Until), MaxRows: int32(f.Limit),
	}
	if f.Before != 0 {
		p.Before = &f.Before
	}
	return retry(ctx, func(ctx context.Context) ([]AuditEvent, error) {
		rows, err := s.q.ListAudit(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list audit events: %w", err)
		}
		return convert(rows, func(r dbgen.AuditEvent) (AuditEvent, error) {
			return AuditEvent{
				ID: r.ID, Actor: r.Actor, Action: r.Action, Target: r.Target, Outcome: r.Outcome, RequestID: r.RequestID, At: r.At,
			}, nil
		})
	})
}

// timeOrNil returns nil for a time that is zero.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
