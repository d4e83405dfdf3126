package controller

import (
	"context"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// uses knows which sandboxes are used through this control plane. What use is, and how little it costs a request: docs/adr/0020-lifecycle.md.
type uses struct {
	mu sync.Mutex // guards what follows
	of map[id.Sandbox]*use
}

// use is the use of one sandbox.
type use struct {
	requests int       // under way
	fresh    bool      // it was used since it was last asked for
	leased   time.Time // until when its row says that it is used, at least
}

// one returns the use of a sandbox. The caller holds the lock.
func (u *uses) one(sb id.Sandbox) *use {
	known := u.of[sb]
	if known == nil {
		known = &use{}
		u.of[sb] = known
	}
	return known
}

// request counts a request, which is use as long as it lasts, until end is called.
func (u *uses) request(sb id.Sandbox) (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	one := u.one(sb)
	one.requests, one.fresh = one.requests+1, true
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		one.requests, one.fresh = one.requests-1, true
	}
}

// touch says that a sandbox is used now. It is called for every piece of data.
func (u *uses) touch(sb id.Sandbox) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.one(sb).fresh = true
}

// leased tells whether the row of a sandbox is known to say that it is used, at now.
func (u *uses) leased(sb id.Sandbox, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.one(sb).leased)
}

func (u *uses) lease(sb id.Sandbox, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.one(sb).leased = until
}

// used returns the sandboxes that are used or were since the last call, and forgets the others.
func (u *uses) used(now time.Time) []id.Sandbox {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []id.Sandbox
	for sb, one := range u.of {
		switch {
		case one.fresh || one.requests > 0:
			all = append(all, sb)
		case !now.Before(one.leased):
			delete(u.of, sb)
		}
		one.fresh = false
	}
	return all
}

// begin notes a use of a sandbox, for a request until ctx ends, and returns the row of it as it is when the database knows of that. From then on the
// sandbox is not put to sleep for want of use before its idle time has passed, by any replica. That costs a statement only where such a
// time is set, and then once in Limits.Use.
func (c *Controller) begin(ctx context.Context, row models.Sandbox, request bool) (models.Sandbox, error) {
	if request {
		context.AfterFunc(ctx, c.uses.request(row.ID))
	} else {
		c.uses.touch(row.ID)
	}
	began := time.Now()
	if row.Lifecycle.AutoPause == 0 || c.uses.leased(row.ID, began) {
		return row, nil
	}
	row, err := c.Store.Use(ctx, row.Account, row.ID, c.Limits.Use)
	if err == nil {
		c.uses.lease(row.ID, began.Add(c.Limits.Use))
	}
	return row, err
}
