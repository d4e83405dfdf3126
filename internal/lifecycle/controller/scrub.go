package controller

import (
	"context"
	"time"
)

// note writes down what a host has found of the snapshot that a sandbox sleeps in.
func (r *Reconciler) note(ctx context.Context, g gap) error {
	if g.seen.Damage != "" && g.seen.Damage != g.row.Damage {
		r.log.Error("the snapshot that a sandbox sleeps in is damaged", "sandbox_id", g.id, "host_id", g.row.Host, "reason", g.seen.Damage)
	}
	return r.store.NoteScrub(ctx, g.row, system, g.seen.Verified.Round(time.Microsecond), g.seen.Damage)
}
