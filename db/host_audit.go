package db

import (
	"context"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
)

// HostAuditEvent is something that was done to a host, or for one.
type HostAuditEvent struct {
	AuditEvent
	Detail string
}

// HostAudit returns what was done to hosts, newest first. Hosts are of no account: that of the filter does not matter.
func (s *Store) HostAudit(ctx context.Context, f AuditFilter) ([]HostAuditEvent, error) {
	p := dbgen.ListHostAuditParams{
		Actor: orNil(f.Actor), Action: orNil(f.Action), Target: orNil(f.Target), Outcome: orNil(f.Outcome),
		RequestID: orNil(f.RequestID), Since: timeOrNil(f.Since), Until: timeOrNil(f.Until), MaxRows: int32(f.Limit),
	}
	if f.Before != 0 {
		p.Before = &f.Before
	}
	return retry(ctx, func(ctx context.Context) ([]HostAuditEvent, error) {
		rows, err := s.q.ListHostAudit(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list what was done to hosts: %w", err)
		}
		return convert(rows, func(r dbgen.HostAuditEvent) (HostAuditEvent, error) {
			e := AuditEvent{ID: r.ID, Actor: r.Actor, Action: r.Action, Target: r.Target, Outcome: r.Outcome, RequestID: r.RequestID, At: r.At}
			return HostAuditEvent{AuditEvent: e, Detail: r.Detail}, nil
		})
	})
}
