// Package eventfeed tells followers when there are new events of their accounts.
//
// The events themselves are rows of Postgres, which followers read; a Feed says up to where, and when it is worth it. It is woken by what
// happens in this process, by other replicas through Redis, and by its own clock: with Redis gone, events come a moment later, and none is lost.
package eventfeed

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

const (
	// pollEvery is how late an event may be that nobody has told of.
	pollEvery = time.Second
	// gather is how long what has happened waits for what happens next.
	gather    = 5 * time.Millisecond
	readLimit = 10 * time.Second
)

// Store is what a Feed needs of the database; see db.Store.
type Store interface {
	EventHorizon(ctx context.Context) (int64, error)
	AccountsWithEvents(ctx context.Context, after, horizon int64) ([]id.Account, error)
}

// Bell carries wakes between replicas, as long as it works.
type Bell interface {
	Ring(ctx context.Context)
	// Listen calls wake when a replica has rung, until ctx ends.
	Listen(ctx context.Context, wake func())
}

// Feed knows up to where the events are decided. All methods may be called at the same time.
type Feed struct {
	store Store
	bell  Bell // nil for none
	log   *slog.Logger
	wake  chan struct{} // of Run: something has happened, somewhere
	ours  chan struct{} // something has happened here, which others do not know
	ended chan struct{}
	once  sync.Once

	mu        sync.Mutex // guards what follows
	horizon   int64
	known     bool // horizon is that of the last look
	followers map[*Follower]bool
}

// New returns a feed that works while Run runs. bell may be nil.
func New(store Store, bell Bell, log *slog.Logger) *Feed {
	return &Feed{
		store: store, bell: bell, log: log, wake: make(chan struct{}, 1), ours: make(chan struct{}, 1), ended: make(chan struct{}),
		followers: map[*Follower]bool{},
	}
}

// Notify says that something may have happened. It does not block.
func (f *Feed) Notify() {
	poke(f.wake)
	poke(f.ours)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// End has all followers come to an end, those to come too: they can go on at another replica.
func (f *Feed) End() { f.once.Do(func() { close(f.ended) }) }

// Run works until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if f.bell != nil {
		wg.Go(func() { f.bell.Listen(ctx, func() { poke(f.wake) }) })
		wg.Go(func() { f.ring(ctx) })
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("events not looked for: followers wait", "error", err)
		}
		rest(ctx)
	}
}

// ring tells the other replicas what happens here.
func (f *Feed) ring(ctx context.Context) {
	for {
		select {
		case <-f.ours:
			f.bell.Ring(ctx)
		case <-ctx.Done():
			return
		}
		rest(ctx)
	}
}

func rest(ctx context.Context) {
	select {
	case <-time.After(gather):
	case <-ctx.Done():
	}
}

// look moves the horizon and wakes those whose events lie before it. Without followers it does nothing.
func (f *Feed) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	f.mu.Lock()
	before, known := f.horizon, f.known
	idle := len(f.followers) == 0
	f.known = known && !idle
	f.mu.Unlock()
	if idle {
		return nil
	}
	horizon, err := f.store.EventHorizon(ctx)
	if err != nil || known && horizon <= before {
		return err
	}
	var accounts []id.Account // with events; all, where it is not known since when
	if known {
		if accounts, err = f.store.AccountsWithEvents(ctx, before, horizon); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.horizon, f.known = horizon, true
	for follower := range f.followers {
		if !known || slices.Contains(accounts, follower.account) {
			poke(follower.news)
		}
	}
	return nil
}

// Follower waits for events of an account. It is for one goroutine.
type Follower struct {
	feed    *Feed
	account id.Account
	news    chan struct{}
}

// Follow returns a follower, and an id up to which the events are decided: what comes later is told by Next. The caller must call Close.
func (f *Feed) Follow(ctx context.Context, account id.Account) (*Follower, int64, error) {
	follower := &Follower{feed: f, account: account, news: make(chan struct{}, 1)}
	f.mu.Lock()
	f.followers[follower] = true
	f.mu.Unlock()
	horizon, err := f.store.EventHorizon(ctx) // not before it is a follower: what is decided meanwhile is told twice rather than never
	if err != nil {
		follower.Close()
		return nil, 0, err
	}
	return follower, horizon, nil
}

// Next waits for events and returns up to where they are decided, which may be less than was known. False: the feed has ended, or ctx.
func (f *Follower) Next(ctx context.Context) (int64, bool) {
	select {
	case <-f.news:
	case <-f.feed.ended:
		return 0, false
	case <-ctx.Done():
		return 0, false
	}
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	return f.feed.horizon, true
}

// Close ends the waiting.
func (f *Follower) Close() {
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	delete(f.feed.followers, f)
}
