package hostapi

import (
	"context"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
)

const (
	// maxOfSandbox is half of the connections that envd takes. Of maxOfHost each holds some 20 KiB of the agent's memory, and
	// 256 KiB for each way in which much goes.
	maxOfSandbox, maxOfHost = 512, 8192
	// openLimit bounds the wait for a guest that does not take connections.
	openLimit = 30 * time.Second
)

// Tunnel is a tunnel.Handler.
func (s *Server) Tunnel(ctx context.Context, t *tunnel.Tunnel) error {
	sb, err := parse(t.Sandbox)
	if err != nil {
		return err
	}
	guest, err := s.agent.Guest(sb)
	if err != nil {
		return err
	}
	if err := s.open.enter(sb); err != nil {
		return err
	}
	defer s.open.leave(sb)
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	conn, err := guest.Tunnel(ctx)
	begun := err == nil
	if begun {
		err = t.Carry(conn)
	}
	if _, ended := s.agent.Guest(sb); ended != nil {
		err = why(ended, begun)
	}
	return err
}

// why is the reason of a tunnel's end whose sandbox does not run any more. What has been sent through it may have been done, which a Precondition would deny.
func why(ended error, begun bool) error {
	if !begun || models.CodeOf(ended) != models.Precondition {
		return ended
	}
	return models.Errorf(models.Unavailable, "the connection to the sandbox broke off: %s", models.AsError(ended).Message).WithCause(ended).
		WithHint("what was asked of it may have been done, or a part of it")
}

// tunnels counts what is open.
type tunnels struct {
	mu  sync.Mutex // guards what follows
	of  map[id.Sandbox]int
	all int
}

func (t *tunnels) enter(sb id.Sandbox) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.of[sb] >= maxOfSandbox:
		return models.Errorf(models.Exhausted, "the sandbox %s has %d connections open, and no more are possible", sb, maxOfSandbox)
	case t.all >= maxOfHost:
		return models.Errorf(models.Exhausted, "the host of the sandbox has %d connections open, and no more are possible", maxOfHost)
	}
	t.of[sb]++
	t.all++
	return nil
}

func (t *tunnels) leave(sb id.Sandbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.of[sb]--; t.of[sb] == 0 {
		delete(t.of, sb)
	}
}
