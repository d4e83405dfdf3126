package controller

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// scrubBatch is how many hibernated sandboxes are read one after the other before it is looked which are due.
const scrubBatch = 16

// keepHibernated has what is stored of hibernated sandboxes read in turn, one at a time, as long as ctx, each as often as the pace says. It is the one replica's
// that reconciles; how fast it goes is the host's to say that reads.
func (r *Reconciler) keepHibernated(ctx context.Context) {
	tried := map[id.Sandbox]time.Time{} // that could not be read, or are damaged
	for pause(ctx, r.pace.Scrub/1440) {
		maps.DeleteFunc(tried, func(_ id.Sandbox, at time.Time) bool { return time.Since(at) > r.pace.Scrub/24 })
		due, err := r.store.HibernatedToScrub(ctx, r.pace.Scrub, slices.Collect(maps.Keys(tried)), scrubBatch)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("it is not known which hibernated sandboxes are to be read", "error", err)
		}
		for _, one := range due {
			if ctx.Err() == nil && !r.verify(ctx, one) {
				tried[one.ID] = time.Now()
			}
		}
	}
}

// verify has one read, and writes down what was found. It tells whether that was all of it.
func (r *Reconciler) verify(ctx context.Context, one db.Sleeper) bool {
	client, err := r.c.Fleet.archivist()
	if err != nil {
		return false // there is none, or its hosts are away
	}
	damage, err := client.VerifyArchive(ctx, one.Key)
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn("what is stored of a hibernated sandbox could not be read; it is tried again", "sandbox_id", one.ID, "key", one.Key, "error", err)
		}
		return false
	}
	verified := time.Now()
	if damage != "" {
		verified = one.Verified
	}
	if damage != "" && damage != one.Damage {
		r.log.Error("what is stored of a hibernated sandbox is damaged", "sandbox_id", one.ID, "key", one.Key, "reason", damage)
	}
	if err := r.store.NoteScrub(ctx, one.Row, system, verified.Round(time.Microsecond), damage); err != nil && ctx.Err() == nil {
		r.log.Warn("not noted what was found of a hibernated sandbox", "sandbox_id", one.ID, "error", err)
	}
	return damage == ""
}
