package controller

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// maxGuests clients are kept. One costs little but for its connections, which it gives up when they are idle.
	maxGuests = 16384
	// guestIdle is how long a client is kept that nobody asks for, and at least every sweepEvery the others are dropped.
	guestIdle, sweepEvery = 10 * time.Minute, time.Minute
)

// Guest returns the client of the envd of a running sandbox, NotFound, or Precondition when the sandbox does
// not run. It stays the controller's: the caller does not close it. When the sandbox ends, what is under way on it fails.
func (c *Controller) Guest(ctx context.Context, account id.Account, sb id.Sandbox) (*envdclient.Client, error) {
	row, err := c.Store.Sandbox(ctx, account, sb)
	if err != nil {
		return nil, err
	}
	if row.State != models.Running {
		return nil, notRunning(row)
	}
	if _, err := c.Fleet.Client(row.Host); err != nil {
		return nil, err
	}
	return c.guests.of(sb, row.Host, time.Now()), nil
}

// dial connects to the guest of a sandbox through its host.
func (f *Fleet) dial(host id.Host, sb id.Sandbox) envdclient.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		client, err := f.Client(host)
		if err != nil {
			return nil, err
		}
		return client.Tunnel(ctx, sb)
	}
}

// guests keeps a client for each sandbox that is used, since its connections are worth being used again.
type guests struct {
	dial func(id.Host, id.Sandbox) envdclient.Dial

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

func (g *guests) of(sb id.Sandbox, host id.Host, now time.Time) *envdclient.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.kept[sb]
	if known == nil || known.host != host {
		if known != nil {
			known.Close() // the sandbox is not there any more
		}
		known = &guest{Client: envdclient.New(g.dial(host, sb), ""), host: host}
		if g.closed {
			known.Close()
			return known.Client
		}
		g.kept[sb] = known
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
