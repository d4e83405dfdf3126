package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// rollCall notes in the store that hosts were heard of: all whose heartbeats fall into the same moment by one statement, so that a thousand hosts cost a few commits in
// ten seconds, and not a thousand.
type rollCall struct {
	store HostStore

	mu   sync.Mutex
	next *roll // that is still written down; nil for none
}

// roll is who was heard of, and what the store says of it.
type roll struct {
	hosts   []id.Host
	written chan struct{} // closed when what follows is there
	ready   []id.Host
	err     error
}

// Of the time between two heartbeats of a host a roll is open for a part, and one that was noted a part of it ago, by another replica, is not noted again.
const (
	openPart  = 10
	freshPart = 2
)

// note returns whether the host is ready as far as the store knows, once it is noted that it was heard of.
func (c *rollCall) note(ctx context.Context, h id.Host, beats time.Duration) (ready bool, err error) {
	c.mu.Lock()
	r, first := c.next, c.next == nil
	if first {
		r = &roll{written: make(chan struct{})}
		c.next = r
	}
	r.hosts = append(r.hosts, h)
	c.mu.Unlock()
	if first {
		pause(ctx, beats/openPart)
		c.write(context.WithoutCancel(ctx), r, beats/freshPart) // which others wait for
	}
	select {
	case <-r.written:
		return slices.Contains(r.ready, h), r.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (c *rollCall) write(ctx context.Context, r *roll, fresh time.Duration) {
	c.mu.Lock()
	c.next = nil
	c.mu.Unlock()
	r.ready, r.err = c.store.HeardOf(ctx, r.hosts, fresh)
	close(r.written)
}
