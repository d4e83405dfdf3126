package db

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Sleeper is a hibernated sandbox, of which something is stored.
type Sleeper struct {
	Row
	Key string // of its archive
}

// HibernatedToScrub returns hibernated sandboxes of which what is stored was last found whole longer than every ago, or never, but for those that were tried.
func (s *Store) HibernatedToScrub(ctx context.Context, every time.Duration, tried []id.Sandbox, most int) ([]Sleeper, error) {
	p := dbgen.HibernatedToScrubParams{EverySeconds: every.Seconds(), Most: int32(most), Tried: make([]string, len(tried))}
	for i, sb := range tried {
		p.Tried[i] = string(sb)
	}
	return retry(ctx, func(ctx context.Context) ([]Sleeper, error) {
		rows, err := s.q.HibernatedToScrub(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list hibernated sandboxes to be read: %w", err)
		}
		return convert(rows, func(r dbgen.HibernatedToScrubRow) (Sleeper, error) {
			row := Row{ID: id.Sandbox(r.ID), State: models.Hibernated, Generation: r.Generation, Verified: orZero(r.VerifiedAt), Damage: r.Damage}
			return Sleeper{Row: row, Key: r.ArchiveKey}, nil
		})
	})
}
