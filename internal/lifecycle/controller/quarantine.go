package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// faultLimit is how many creates one after the other a host may fail by its own fault, as one replica sees it, before it is taken out.
const faultLimit = 3

// probeLimit bounds a probe, as an agent does a create.
const probeLimit = 2 * time.Minute

// blame counts a create that its host has failed, unless that was what was asked of it; cause is what the host, or the connection to it, has said, and told is what
// the user hears. After a few of them the host is taken out.
func (c *Controller) blame(ctx context.Context, host id.Host, cause, told error) {
	if !ownFault(cause) || models.CodeOf(told) == models.Conflict || c.base.Err() != nil { // it was destroyed meanwhile, or we are to end
		return
	}
	faults := c.Fleet.blame(host)
	if faults < faultLimit {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	out, err := c.Store.Quarantine(ctx, host, fmt.Sprintf("%d creates in a row have failed, the last one: %s", faults, models.AsError(cause).Message))
	switch {
	case err != nil:
		c.Log.Warn("host not taken out", "host_id", host, "faults", faults, "error", err)
	case out:
		c.Log.Warn("host taken out: its creates fail", "host_id", host, "faults", faults, "error", cause)
	}
}

// ownFault tells whether an error of a create says something of its host and not of what was asked for.
func ownFault(err error) bool {
	switch models.CodeOf(err) {
	case models.Internal, models.Unavailable, models.Deadline, models.Exhausted:
		return true
	default:
		return false
	}
}

// blame counts a fault of a host and returns how many it has had since a create succeeded there.
func (f *Fleet) blame(host id.Host) int {
	return f.fault(host, func(n int) int { return n + 1 })
}

// acquit forgets the faults of a host.
func (f *Fleet) acquit(host id.Host) { f.fault(host, func(int) int { return 0 }) }

func (f *Fleet) fault(host id.Host, change func(int) int) int {
	h := f.find(host)
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = change(h.faults)
	return h.faults
}

// probe makes a sandbox on a host in quarantine that nobody knows of, and lets the host take sandboxes again if that runs. The host's quarantine goes on where it fails,
// or where the host has no room for it.
func (r *Reconciler) probe(ctx context.Context, h db.HeldHost) error {
	size, template, err := smallest(h)
	if err != nil {
		return err
	}
	client, err := r.c.Fleet.Client(h.ID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	if err := r.tryCreate(ctx, client, hostclient.NewSandbox{ID: id.NewSandbox(), Template: template, Size: size}); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	r.c.Fleet.acquit(h.ID)
	if in, err := r.store.EndQuarantine(ctx, h.ID); err != nil || !in {
		return err
	}
	r.log.Info("host takes sandboxes again: a probe has succeeded", "host_id", h.ID)
	return nil
}

// tryCreate makes a sandbox and removes it.
func (r *Reconciler) tryCreate(ctx context.Context, client *hostclient.Client, n hostclient.NewSandbox) error {
	r.mu.Lock()
	r.probes[n.ID] = true
	r.mu.Unlock()
	defer func() { // from then on it is an orphan, if it is there still
		r.mu.Lock()
		delete(r.probes, n.ID)
		r.mu.Unlock()
	}()
	_, err := client.Create(ctx, n)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.Limits.Destroy)
	defer cancel()
	return errors.Join(err, client.Destroy(ctx, n.ID, 0))
}

// leaveProbes takes the probes out of what a host was seen to hold.
func (r *Reconciler) leaveProbes(seen map[id.Sandbox]sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for sb := range r.probes {
		delete(seen, sb)
	}
}

// smallest returns the template of a host that takes the least disk, and its size there, or Exhausted where there is no room for it.
func smallest(h db.HeldHost) (models.Size, string, error) {
	all := views([]*db.HostUse{&h.HostUse}, map[id.Host]bool{h.ID: true})
	var best scheduler.Placement
	var name string
	var refused error
	for _, t := range h.Templates {
		p, err := scheduler.SingleHost(all[0], scheduler.Request{Template: t.Name}, scheduler.Overcommit{VCPU: probeOvercommit, Memory: 1, Disk: probeOvercommit})
		switch {
		case err != nil:
			refused = err
		case name == "" || p.Size.DiskMiB < best.Size.DiskMiB:
			best, name = p, t.Name
		}
	}
	if name == "" && refused == nil {
		refused = models.Errorf(models.Precondition, "it has no templates")
	}
	if name == "" {
		return models.Size{}, "", refused
	}
	return best.Size, name, nil
}

// probeOvercommit leaves memory alone to decide whether there is room for a probe, which uses neither processors nor disk for long.
const probeOvercommit = 1000
