package controller

import (
	"context"
	"log/slog"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// beatEvery leaves room for several that fail.
const beatEvery = db.Silence / 5

// leaveLimit is how long the end of a replica waits for the database.
const leaveLimit = 2 * time.Second

// KeepAlive says in the database that this replica is alive, under an id of its own, until ctx ends, and then that it is not. What a replica has begun that says so no more, the
// Reconciler of another one ends or undoes without waiting for its deadline: at once where it has left, and else after db.Silence.
func KeepAlive(ctx context.Context, store interface {
	Beat(ctx context.Context, replica id.Replica) error
	Leave(ctx context.Context, replica id.Replica) error
}, log *slog.Logger,
) {
	replica := id.NewReplica()
	defer func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveLimit)
		defer cancel()
		if err := store.Leave(limited, replica); err != nil {
			log.Warn("others find out by themselves that this control plane has ended", "error", err)
		}
	}()
	for {
		if err := store.Beat(ctx, replica); err != nil && ctx.Err() == nil {
			log.Warn("the database does not hear that this control plane is alive", "error", err)
		}
		if !pause(ctx, beatEvery) {
			return
		}
	}
}
