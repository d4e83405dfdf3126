package controller

import (
	"context"
	"log/slog"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// beatEvery leaves room for several that fail.
const beatEvery = db.Silence / 5

// KeepAlive says in the database that this replica is alive, under an id of its own, until ctx ends. What a replica has begun that says so no more, the Reconciler
// of another one ends or undoes without waiting for its deadline.
func KeepAlive(ctx context.Context, store interface {
	Beat(ctx context.Context, replica id.Replica) error
}, log *slog.Logger,
) {
	replica := id.NewReplica()
	for {
		if err := store.Beat(ctx, replica); err != nil && ctx.Err() == nil {
			log.Warn("the database does not hear that this control plane is alive", "error", err)
		}
		if !pause(ctx, beatEvery) {
			return
		}
	}
}
