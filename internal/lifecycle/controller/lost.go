package controller

import (
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Told returns a sandbox with the reason that its host cannot be reached, where that is so for longer than a restart of its agent takes: then its state is what it was
// last known to be in. What its row says is told again when the host is back.
func (c *Controller) Told(sb models.Sandbox) models.Sandbox {
	if sb.Host == "" || sb.State == models.Failed || sb.State == models.Stopped {
		return sb
	}
	since, lost := c.lost(sb.Host)
	if !lost {
		return sb
	}
	sb.Reason = fmt.Sprintf("its host %s cannot be reached since %s; what it holds is as it was when that is back", sb.Host, since.UTC().Format(time.RFC3339))
	return sb
}

// lost tells whether a host cannot be reached for longer than a restart of its agent takes, and since when.
func (c *Controller) lost(host id.Host) (since time.Time, lost bool) {
	since = c.Fleet.lostSince(host)
	return since, !since.IsZero() && time.Since(since) >= c.Limits.Lost
}

// lostSince tells since when a host cannot be reached, zero where it can.
func (f *Fleet) lostSince(host id.Host) time.Time {
	h := f.find(host)
	if h == nil {
		return time.Time{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lostAt
}
