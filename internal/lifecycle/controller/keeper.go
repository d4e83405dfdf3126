package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// KeeperStore is what a Keeper needs of the database beyond a Controller's Store.
type KeeperStore interface {
	RenewUses(ctx context.Context, used []id.Sandbox, lease time.Duration) error
	ClaimDue(ctx context.Context, most int, claim time.Duration) ([]db.Due, error)
	LookAgain(ctx context.Context, d db.Due, at time.Time) error
	Postpone(ctx context.Context, sb id.Sandbox, wait time.Duration) error
}

const (
	// KeeperTick is how often a keeper looks for what is due.
	KeeperTick = time.Second
	// stepsAtOnce bounds how many sandboxes a replica puts to sleep or ends at the same time by itself.
	stepsAtOnce = 8
	// claimFor is for how long a replica has a sandbox for itself: far longer than it takes to write that its step is under way.
	claimFor = 30 * time.Second
	// What fails is tried again when it is overdue for twice the time that it was.
	stepRetryFirst, stepRetryMost = 30 * time.Second, 10 * time.Minute
	keeperLimit                   = 5 * time.Second // of a statement
)

// Keeper carries out the lifecycles of sandboxes: it puts to sleep, hibernates and ends what is due. Every replica has one. All times are the database's,
// a sandbox is looked at by one replica at a time, and each step is taken in one transaction with the look at the row that says it is due.
type Keeper struct {
	c     *Controller
	store KeeperStore
	log   *slog.Logger
	tick  time.Duration
	slots chan struct{}
	steps sync.WaitGroup
}

// NewKeeper returns a keeper that acts through c, and looks every tick for what is due.
func NewKeeper(c *Controller, store KeeperStore, tick time.Duration) *Keeper {
	return &Keeper{c: c, store: store, log: c.Log, tick: tick, slots: make(chan struct{}, stepsAtOnce)}
}

// Run works until ctx ends. It takes no step before the database has been there for as long as a use counts: until then it may not know of
// sandboxes that are used through other replicas.
func (k *Keeper) Run(ctx context.Context) {
	defer k.steps.Wait()
	var renewed, since time.Time // since when all renewals have been written; zero for not
	for pause(ctx, k.tick) {
		now := time.Now()
		if now.Sub(renewed) >= k.c.Limits.Use/2 {
			renewed = now
			if err := k.renew(ctx, now); err != nil {
				k.log.Warn("uses of sandboxes not noted", "error", err)
				since = time.Time{}
				continue
			}
			if since.IsZero() {
				since = now
			}
		}
		if !since.IsZero() && now.Sub(since) >= k.c.Limits.Use {
			k.round(ctx)
		}
	}
}

// renew notes which sandboxes are in use through this replica.
func (k *Keeper) renew(ctx context.Context, now time.Time) error {
	used := k.c.uses.used(now)
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keeperLimit)
	defer cancel()
	return k.store.RenewUses(ctx, used, k.c.Limits.Use)
}

// round begins what is due, as far as there is room.
func (k *Keeper) round(ctx context.Context) {
	free := cap(k.slots) - len(k.slots)
	if free == 0 {
		return
	}
	limited, cancel := context.WithTimeout(ctx, keeperLimit)
	defer cancel()
	due, err := k.store.ClaimDue(limited, free, claimFor)
	if err != nil {
		k.log.Warn("sandboxes that are due not looked at", "error", err)
		return
	}
	for _, d := range due {
		step, now := lifecycle.Due(d.Sandbox, d.Now)
		if !now {
			k.put(ctx, d)
			continue
		}
		k.slots <- struct{}{} // there is room: nobody else fills it
		k.steps.Go(func() {
			defer func() { <-k.slots }()
			k.step(ctx, d, step)
		})
	}
}

// put has a sandbox looked at again when the next step is due.
func (k *Keeper) put(ctx context.Context, d db.Due) {
	var at time.Time
	if steps := lifecycle.Steps(d.Sandbox); len(steps) > 0 {
		at = steps[0].At
	}
	ctx, cancel := context.WithTimeout(ctx, keeperLimit)
	defer cancel()
	if err := k.store.LookAgain(ctx, d, at); err != nil {
		k.log.Warn("next look at a sandbox not noted: it comes soon", "sandbox_id", d.ID, "error", err)
	}
}

// step takes a step, and has it tried again if it fails.
func (k *Keeper) step(ctx context.Context, d db.Due, step lifecycle.Step) {
	if step.Operation != lifecycle.DestroyOp && !k.c.Fleet.reachable()[d.Host] {
		k.postpone(ctx, d, stepRetryFirst) // it would be on its way until its host is back
		return
	}
	_, err := k.c.take(ctx, d.Sandbox, step)
	switch {
	case err == nil:
		k.log.Info("a sandbox's lifecycle", "sandbox_id", d.ID, "step", string(step.Operation), "reason", step.Reason)
	case errors.Is(err, db.ErrMoved), ctx.Err() != nil: // it was used, or changed, meanwhile
	default:
		k.log.Warn("a step of a sandbox's lifecycle has failed", "sandbox_id", d.ID, "step", string(step.Operation), "error", err)
		k.postpone(ctx, d, min(max(d.Now.Sub(step.At), stepRetryFirst), stepRetryMost))
	}
}

func (k *Keeper) postpone(ctx context.Context, d db.Due, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, keeperLimit)
	defer cancel()
	if err := k.store.Postpone(ctx, d.ID, wait); err != nil {
		k.log.Warn("next try of a step not noted: it comes soon", "sandbox_id", d.ID, "error", err)
	}
}

// take takes a step of a sandbox's lifecycle, unless it is not due any more: then it is ErrMoved.
func (c *Controller) take(ctx context.Context, row models.Sandbox, step lifecycle.Step) (models.Sandbox, error) {
	by := db.By{Actor: system.Actor, Operation: string(id.NewRequest())}
	still := func(sb models.Sandbox, now time.Time) bool {
		due, is := lifecycle.Due(sb, now)
		return is && due.Operation == step.Operation
	}
	return c.detached(ctx, step.Operation, func(ctx context.Context) (models.Sandbox, error) {
		if step.Operation == lifecycle.DestroyOp {
			return c.destroyIf(ctx, by, row, step.Reason, still)
		}
		ch := pausing
		if step.Operation == lifecycle.HibernateOp {
			if err := c.storable(ctx, row); err != nil {
				return row, err
			}
			ch = hibernating
		}
		ch.why, ch.still = step.Reason, still
		begun, err := c.beginChange(ctx, by, row, ch)
		if err != nil {
			return begun, err
		}
		return c.onHost(ctx, by, begun, ch)
	})
}

// storable tells whether the object store of a sandbox's host answers. While it does not, a sandbox need not be on its way there and back.
func (c *Controller) storable(ctx context.Context, row models.Sandbox) error {
	client, err := c.Fleet.Client(row.Host)
	if err != nil {
		return err
	}
	return client.CheckArchive(ctx)
}
