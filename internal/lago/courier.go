package lago

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

// Store is what a Courier needs of the database; see db.Store.
type Store interface {
	CutUsage(ctx context.Context, most int) (int, error)
	ClaimUsage(ctx context.Context, most int, claim time.Duration) ([]usage.Event, error)
	UsageArrived(ctx context.Context, events []usage.Event) error
	UsageRefused(ctx context.Context, e usage.Event, why string) error
	PostponeUsage(ctx context.Context, events []usage.Event, b db.Backoff, why string) error
	ReturnUsage(ctx context.Context, events []usage.Event) error
	SweepUsage(ctx context.Context, keep time.Duration, most int) (int, error)
}

// Pace of a courier. The zero value of each means its default.
type Pace struct {
	Tick  time.Duration // between two looks; 2 s
	Claim time.Duration // after which another replica takes over what one has not delivered; 2 min
	Retry time.Duration // before the second try of what has failed, then twice as long each time, up to 10 min; 5 s
}

const (
	longestRetry = 10 * time.Minute
	keepSent     = 30 * 24 * time.Hour // for operators to look at
	atOnce       = 200                 // periods that are cut, and events that are forgotten, in one statement
	sweepEvery   = time.Hour
	noteLimit    = 10 * time.Second
)

// Courier cuts usage into events and delivers them. Every replica has one; each event is in the hands of one of them at a time.
type Courier struct {
	store  Store
	client *Client
	log    *slog.Logger
	pace   Pace
	swept  time.Time
}

// NewCourier returns a courier that works while Run runs.
func NewCourier(store Store, client *Client, pace Pace, log *slog.Logger) *Courier {
	if pace.Tick == 0 {
		pace.Tick = 2 * time.Second
	}
	if pace.Claim == 0 {
		pace.Claim = 2 * time.Minute
	}
	if pace.Retry == 0 {
		pace.Retry = 5 * time.Second
	}
	return &Courier{store: store, client: client, log: log, pace: pace, swept: time.Now()}
}

// Run works until ctx ends.
func (c *Courier) Run(ctx context.Context) {
	ticker := time.NewTicker(c.pace.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := c.round(ctx); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "usage not delivered to Lago: it is tried again", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// round cuts what is due, and delivers until nothing is left that is, or something fails.
func (c *Courier) round(ctx context.Context) error {
	for n := atOnce; n == atOnce; {
		var err error
		if n, err = c.store.CutUsage(ctx, atOnce); err != nil {
			return err
		}
	}
	for {
		events, err := c.store.ClaimUsage(ctx, MaxBatch, c.pace.Claim)
		if err != nil || len(events) == 0 {
			return errors.Join(err, c.sweep(ctx))
		}
		if err := c.deliver(ctx, events); err != nil {
			return err
		}
	}
}

// deliver sends events until what has become of each is noted. Where that cannot be known, the rest is postponed, and it fails.
func (c *Courier) deliver(ctx context.Context, events []usage.Event) error {
	for len(events) > 0 {
		err := c.client.send(ctx, events)
		if err == nil {
			return c.arrived(ctx, events)
		}
		r, refused := asRefusal(err)
		if !refused {
			return errors.Join(err, c.postpone(ctx, events, err))
		}
		rest, err := c.sort(ctx, events, r)
		if err != nil {
			return err
		}
		if len(rest) == len(events) { // nothing is known but that something is wrong with one of them
			return c.deliverEach(ctx, rest, r)
		}
		events = rest
	}
	return nil
}

// sort notes what Lago has said of single events, and returns those of which it has said nothing.
func (c *Courier) sort(ctx context.Context, events []usage.Event, r *refusal) (rest []usage.Event, err error) {
	var there []usage.Event
	for i, e := range events {
		why, named := r.verdicts[i]
		switch {
		case !named:
			rest = append(rest, e)
		case why == "":
			there = append(there, e)
		default:
			if err := c.refused(ctx, e, why); err != nil {
				return nil, err
			}
		}
	}
	return rest, c.arrived(ctx, there)
}

func (c *Courier) deliverEach(ctx context.Context, events []usage.Event, r *refusal) error {
	if len(events) == 1 {
		return c.refused(ctx, events[0], r.why)
	}
	for i := range events {
		if err := c.deliver(ctx, events[i:i+1]); err != nil {
			return errors.Join(err, c.giveBack(ctx, events[i+1:]))
		}
	}
	return nil
}

func (c *Courier) giveBack(ctx context.Context, events []usage.Event) error {
	ctx, cancel := noting(ctx)
	defer cancel()
	return c.store.ReturnUsage(ctx, events)
}

// noting is for what must be written down although ctx may have ended.
func noting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), noteLimit)
}

func (c *Courier) arrived(ctx context.Context, events []usage.Event) error {
	if len(events) == 0 {
		return nil
	}
	ctx, cancel := noting(ctx)
	defer cancel()
	return c.store.UsageArrived(ctx, events)
}

func (c *Courier) refused(ctx context.Context, e usage.Event, why string) error {
	ctx, cancel := noting(ctx)
	defer cancel()
	c.log.ErrorContext(ctx, "Lago refuses a usage event", "transaction_id", e.Transaction, "account_id", string(e.Account), "error", why)
	return c.store.UsageRefused(ctx, e, why)
}

func (c *Courier) postpone(ctx context.Context, events []usage.Event, cause error) error {
	ctx, cancel := noting(ctx)
	defer cancel()
	b := db.Backoff{First: c.pace.Retry, Most: longestRetry}
	var f *failure
	if errors.As(cause, &f) {
		b.Asked = min(f.retryAfter, longestRetry)
	}
	return c.store.PostponeUsage(ctx, events, b, cause.Error())
}

// sweep forgets what was delivered long ago, now and then.
func (c *Courier) sweep(ctx context.Context) error {
	if time.Since(c.swept) < sweepEvery {
		return nil
	}
	c.swept = time.Now()
	for n := atOnce; n == atOnce; {
		var err error
		if n, err = c.store.SweepUsage(ctx, keepSent, atOnce); err != nil {
			return err
		}
	}
	return nil
}
