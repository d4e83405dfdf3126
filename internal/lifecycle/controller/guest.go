package controller

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// maxGuests clients are kept. One costs little but for its connections, which it gives up when they are idle.
	maxGuests = 16384
	// guestIdle is how long a client is kept that nobody asks for, and at least every sweepEvery the others are dropped.
	guestIdle, sweepEvery = 10 * time.Minute, time.Minute
)

// Guest returns the client of the envd of a running sandbox, for a request: the sandbox is in use until ctx ends. It is NotFound, or Precondition when the
// sandbox does not run. One that is paused is resumed first, unless its user wanted that for himself to decide: many callers wait for one resume, each at most
// Limits.Wake. The client stays the controller's: the caller does not close it. When the sandbox ends, what is under way on it fails.
func (c *Controller) Guest(ctx context.Context, account id.Account, sb id.Sandbox) (*envdclient.Client, error) {
	return c.guest(ctx, account, sb, true)
}

// Connection is Guest for what may be held open without being of use: the sandbox is in use at its begin, and whenever used is called.
func (c *Controller) Connection(ctx context.Context, account id.Account, sb id.Sandbox) (client *envdclient.Client, used func(), err error) {
	client, err = c.guest(ctx, account, sb, false)
	return client, func() { c.uses.touch(sb) }, err
}

func (c *Controller) guest(ctx context.Context, account id.Account, sb id.Sandbox, request bool) (*envdclient.Client, error) {
	row, err := c.Store.Sandbox(ctx, account, sb)
	if err != nil {
		return nil, err
	}
	if row, err = c.begin(ctx, row, request); err != nil {
		return nil, err
	}
	if row, err = c.awake(ctx, row); err != nil {
		return nil, err
	}
	if _, err := c.Fleet.Client(row.Host); err != nil {
		return nil, err
	}
	return c.guests.of(row, time.Now()), nil
}

// waker is the author of resumes that nobody asked for in words.
const waker = "system"

// asleep are the states of a sandbox that a request wakes.
var asleep = []models.State{models.Pausing, models.Paused, models.Resuming, models.Hibernating, models.Hibernated}

// awake returns the row of a sandbox that runs, and resumes it for that.
func (c *Controller) awake(ctx context.Context, row models.Sandbox) (models.Sandbox, error) {
	switch {
	case row.State == models.Running:
		return row, nil
	case !row.AutoResume || !slices.Contains(asleep, row.State):
		return row, notRunning(row)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Wake)
	defer cancel()
	resumed := c.wakes.DoChan(string(row.ID), func() (any, error) {
		by := db.By{Actor: waker, Operation: string(id.NewRequest())}
		return c.detached(c.base, lifecycle.ResumeOp, func(ctx context.Context) (models.Sandbox, error) { return c.carry(ctx, row.Account, by, row, resuming) })
	})
	select {
	case r := <-resumed:
		if r.Err != nil {
			return row, r.Err
		}
		return r.Val.(models.Sandbox), nil
	case <-ctx.Done():
		return row, models.Errorf(models.Deadline, "the sandbox %s was not resumed in time for the request", row.ID).WithHint("try again: its resume goes on")
	}
}

// dial connects to the guest of a sandbox through its host. One that was put to sleep since the request began is resumed.
func (c *Controller) dial(row models.Sandbox) envdclient.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := c.Fleet.tunnel(ctx, row)
		if code := models.CodeOf(err); err == nil || code != models.Precondition && code != models.NotFound {
			return conn, err
		}
		now, err := c.Store.Sandbox(ctx, row.Account, row.ID)
		if err == nil {
			now, err = c.awake(ctx, now)
		}
		if err != nil {
			return nil, err
		}
		conn, err = c.Fleet.tunnel(ctx, now)
		return conn, present(now.ID, err)
	}
}

// present turns the word of a host that it does not have a sandbox, of one that is there for its user, into one that it cannot be used now: its VM has just ended, or it
// is on its way, and its row says so in a moment.
func present(sb id.Sandbox, err error) error {
	if err == nil || models.CodeOf(err) != models.NotFound {
		return err
	}
	return models.Errorf(models.Unavailable, "the host of the sandbox %s has no VM of it at this moment", sb).WithCause(err).
		WithHint("look at its state in a few seconds")
}

func (f *Fleet) tunnel(ctx context.Context, row models.Sandbox) (net.Conn, error) {
	client, err := f.Client(row.Host)
	if err != nil {
		return nil, err
	}
	return client.Tunnel(ctx, row.ID)
}

// guests keeps a client for each sandbox that is used, since its connections are worth being used again.
type guests struct {
	dial func(models.Sandbox) envdclient.Dial

	mu     sync.Mutex // guards what follows
	kept   map[id.Sandbox]*guest
	swept  time.Time
	closed bool
}

// guest is a client and when it was last asked for.
type guest struct {
	*envdclient.Client
	host id.Host
	used time.Time
}

func (g *guests) of(row models.Sandbox, now time.Time) *envdclient.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.kept[row.ID]
	if known == nil || known.host != row.Host {
		if known != nil {
			known.Close() // the sandbox is not there any more
		}
		known = &guest{Client: envdclient.New(g.dial(row), ""), host: row.Host}
		if g.closed {
			known.Close()
			return known.Client
		}
		g.kept[row.ID] = known
	}
	known.used = now
	g.sweep(now)
	return known.Client
}

// sweep drops clients that nobody has asked for lately, and of too many the one that was not for the longest time.
// What is under way on a dropped one goes on. The caller holds the lock.
func (g *guests) sweep(now time.Time) {
	if len(g.kept) <= maxGuests && now.Sub(g.swept) < sweepEvery {
		return
	}
	g.swept = now
	var oldest id.Sandbox
	for sb, known := range g.kept {
		if now.Sub(known.used) >= guestIdle {
			g.drop(sb)
		} else if oldest == "" || known.used.Before(g.kept[oldest].used) {
			oldest = sb
		}
	}
	if len(g.kept) > maxGuests {
		g.drop(oldest)
	}
}

func (g *guests) drop(sb id.Sandbox) {
	g.kept[sb].CloseIdle()
	delete(g.kept, sb)
}

// idle closes the connections through a host that nobody uses. An agent that is about to end waits for them.
func (g *guests) idle(host id.Host) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, known := range g.kept {
		if known.host == host {
			known.CloseIdle()
		}
	}
}

// end ends the client of a sandbox that has ended, and what is under way on it.
func (g *guests) end(sb id.Sandbox) {
	g.mu.Lock()
	known := g.kept[sb]
	delete(g.kept, sb)
	g.mu.Unlock()
	if known != nil {
		known.Close()
	}
}

// close ends all clients.
func (g *guests) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for sb, known := range g.kept {
		known.Close()
		delete(g.kept, sb)
	}
}
