package db

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Silence is how long a replica may have said nothing before it counts as dead, and what it carried out as forsaken. A Postgres that was away heard nobody:
// it must have been up for as long.
const Silence = 15 * time.Second

// Beat says that replica is alive, which must be said again before Silence has passed. From the first one on, s notes on the sandboxes that it changes that
// this replica carries that out.
func (s *Store) Beat(ctx context.Context, replica id.Replica) error {
	if err := s.q.Beat(ctx, string(replica)); err != nil {
		return fmt.Errorf("say that this control plane is alive: %w", coded(err))
	}
	s.replica.Store(&replica)
	return nil
}

// Leave says that replica has ended, and nothing is carried out by it any more.
func (s *Store) Leave(ctx context.Context, replica id.Replica) error {
	if err := s.q.LeaveReplicas(ctx, string(replica)); err != nil {
		return fmt.Errorf("say that this control plane has ended: %w", coded(err))
	}
	return nil
}

// carrier is the replica that what s does is carried out by; nil before the first Beat.
func (s *Store) carrier() *id.Replica { return s.replica.Load() }
