package controller

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// RoomStore is what a Controller needs of the database to wait for room in pools.
type RoomStore interface {
	AwaitPool(ctx context.Context, account id.Account, wait time.Duration) error
	HearPools(ctx context.Context, ready func(), heard func(id.Account)) error
}

// hearAgain is how long after its connection broke a control plane listens again.
const hearAgain = 200 * time.Millisecond

// rooms knows who waits here for room in which pool. It listens to the database from when the first does, and asks it nothing meanwhile.
type rooms struct {
	listen sync.Once
	wg     sync.WaitGroup // of the listener

	mu      sync.Mutex // guards waiting
	waiting map[id.Account]map[chan struct{}]struct{}
}

// join returns a channel that gets something whenever there may be room in the account's pool, until leave is called.
func (r *rooms) join(account id.Account) (may <-chan struct{}, leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := make(chan struct{}, 1)
	if r.waiting[account] == nil {
		r.waiting[account] = map[chan struct{}]struct{}{}
	}
	r.waiting[account][own] = struct{}{}
	return own, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(r.waiting[account], own); len(r.waiting[account]) == 0 {
			delete(r.waiting, account)
		}
	}
}

func (r *rooms) wake(account id.Account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for own := range r.waiting[account] {
		select {
		case own <- struct{}{}:
		default: // it is told already
		}
	}
}

// wakeAll is for when what was given back may have been missed.
func (r *rooms) wakeAll() {
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.waiting))
	r.mu.Unlock()
	for _, account := range all {
		r.wake(account)
	}
}

// hear has those who wait be woken, until the controller ends.
func (c *Controller) hear() {
	c.rooms.wg.Go(func() {
		for {
			err := c.Store.HearPools(c.base, c.rooms.wakeAll, c.rooms.wake)
			if c.base.Err() != nil {
				return
			}
			c.Log.Warn("room in pools not heard of; listening again", "error", err)
			if !pause(c.base, hearAgain) {
				return
			}
		}
	})
}

// withRoom does op. While that fails for want of room in the account's pool it is done again as soon as something of the pool was given back, through whichever replica, for wait at
// most; then, or when ctx ends, its last error is returned, and errStopping when this control plane retires. Of several who wait none has a right to be first.
func withRoom[T any](ctx context.Context, c *Controller, account id.Account, wait time.Duration, op func() (T, error)) (T, error) {
	v, err := op()
	if wait <= 0 || !errors.Is(err, models.ErrPoolFull) {
		return v, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c.rooms.listen.Do(c.hear)
	may, leave := c.rooms.join(account)
	defer leave()
	if told := c.Store.AwaitPool(ctx, account, wait); told != nil {
		return v, told
	}
	for v, err = op(); errors.Is(err, models.ErrPoolFull); v, err = op() {
		select {
		case <-may:
		case <-ctx.Done():
			return v, err
		case <-c.retiring.Done():
			return v, errStopping
		}
	}
	return v, err
}
