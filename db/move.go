package db

import (
	"context"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Move is TransitionPlaced of a sandbox that from could not make and another host is to: what it takes there is reserved, and what it took of from is given back, in one transaction. Of its
// account's pool it takes what it had. c.Reason is why it has left from.
func (s *Store) Move(ctx context.Context, c Change, from id.Host, place HostFunc) (models.Sandbox, error) {
	c.Reason = left(from) + c.Reason
	return s.transitionOn(ctx, c, place, func(*dbgen.Queries, models.Sandbox) error { return nil })
}

// left begins the reason of an event by which a sandbox has left a host that was to make it: HasLeft looks for that.
func left(host id.Host) string { return fmt.Sprintf("moved from %s: ", host) }

// HasLeft tells whether a sandbox was moved away from a host that was to make it. What that host may hold of it is not the sandbox.
func (s *Store) HasLeft(ctx context.Context, sb id.Sandbox, host id.Host) (bool, error) {
	return retry(ctx, func(ctx context.Context) (bool, error) {
		has, err := s.q.HasLeft(ctx, dbgen.HasLeftParams{SandboxID: string(sb), Words: left(host)})
		if err != nil {
			return false, fmt.Errorf("look whether %s has left %s: %w", sb, host, err)
		}
		return has, nil
	})
}
