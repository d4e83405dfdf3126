package controller

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// uses knows which sandboxes are used through this control plane. What use is, and how little it costs a request: docs/adr/0020-lifecycle.md.
type uses struct {
	mu sync.Mutex // guards of, and what is in it but for fresh
	of map[id.Sandbox]*use
}

// use is the use of one sandbox.
type use struct {
	open   int         // requests and connections
	held   int         // those of them that are use as long as they last
	leased time.Time   // until when its row says that it is used, at least
	fresh  atomic.Bool // it was used since it was last asked for
}

// begin counts a request, which is use as long as it lasts, or a connection, which is not, until end is called.
func (u *uses) begin(sb id.Sandbox, request bool) (one *use, end func()) {
	held := 0
	if request {
		held = 1
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if one = u.of[sb]; one == nil {
		one = &use{}
		u.of[sb] = one
	}
	one.open, one.held = one.open+1, one.held+held
	one.touch()
	return one, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		one.open, one.held = one.open-1, one.held-held
		if request {
			one.touch()
		}
	}
}

// touch says that the sandbox is used now. It is called for every piece of data.
func (u *use) touch() {
	if !u.fresh.Load() {
		u.fresh.Store(true)
	}
}

// leased tells whether the row of a sandbox is known to say that it is used, at now.
func (u *uses) leased(one *use, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(one.leased)
}

func (u *uses) lease(one *use, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	one.leased = until
}

// used returns the sandboxes that are used or were since the last call, and forgets the others that nobody has open.
func (u *uses) used(now time.Time) []id.Sandbox {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []id.Sandbox
	for sb, one := range u.of {
		switch fresh := one.fresh.Swap(false); {
		case fresh || one.held > 0:
			all = append(all, sb)
		case one.open == 0 && !now.Before(one.leased):
			delete(u.of, sb)
		}
	}
	return all
}

// begin counts a use of a sandbox until ctx ends, and returns the row of it as it is when the database knows of that. From then on the sandbox is not
// put to sleep for want of use before its idle time has passed, by any replica. That costs a statement only where such a time is set, and
// then once in Limits.Use.
func (c *Controller) begin(ctx context.Context, row models.Sandbox, request bool) (models.Sandbox, *use, error) {
	one, end := c.uses.begin(row.ID, request)
	context.AfterFunc(ctx, end)
	began := time.Now()
	if row.Lifecycle.AutoPause == 0 || c.uses.leased(one, began) {
		return row, one, nil
	}
	row, err := c.Store.Use(ctx, row.Account, row.ID, c.Limits.Use)
	if err == nil {
		c.uses.lease(one, began.Add(c.Limits.Use))
	}
	return row, one, err
}
