package db

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Census is how much there is of everything, in all accounts.
type Census struct {
	Sandboxes map[models.State]int64 // those that have not ended
	Hosts     []HostUse              // that were neither replaced nor removed
	Webhooks  Backlog                // deliveries that are pending
	Usage     Backlog                // events of usage that are
	Refused   int64                  // events of usage that are refused
}

// Backlog is what waits to be sent.
type Backlog struct {
	Number int64
	Age    time.Duration // of the oldest; 0 where there is none
}

// Census counts. It reads all sandboxes that have not ended: who asks often keeps the answer for a while.
func (s *Store) Census(ctx context.Context) (Census, error) {
	return retry(ctx, func(ctx context.Context) (Census, error) {
		counted, err := s.q.CountSandboxes(ctx)
		if err != nil {
			return Census{}, fmt.Errorf("count sandboxes: %w", err)
		}
		c := Census{Sandboxes: map[models.State]int64{}}
		for _, n := range counted {
			c.Sandboxes[n.State] = n.Sandboxes
		}
		if c.Hosts, err = usedHosts(ctx, s.q); err != nil {
			return Census{}, err
		}
		b, err := s.q.CountBacklogs(ctx)
		if err != nil {
			return Census{}, fmt.Errorf("count what waits to be sent: %w", err)
		}
		c.Webhooks = Backlog{b.Deliveries, ageOf(b.DeliverySeconds)}
		c.Usage, c.Refused = Backlog{b.Usage, ageOf(b.UsageSeconds)}, b.UsageRefused
		return c, nil
	})
}

func ageOf(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Connections is how the pool of connections to the database is used.
type Connections struct {
	Used, Idle, Most int
	Waits            int64         // times that somebody has waited for one, so far
	Waited           time.Duration // in all
}

// Connections tells of the pool.
func (s *Store) Connections() Connections {
	st := s.pool.Stat()
	return Connections{
		Used: int(st.AcquiredConns()), Idle: int(st.IdleConns()), Most: int(st.MaxConns()), Waits: st.EmptyAcquireCount(), Waited: st.EmptyAcquireWaitTime(),
	}
}
