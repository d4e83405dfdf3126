package controller

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

var hibernating = change{
	op: lifecycle.HibernateOp, from: []models.State{models.Paused}, to: models.Hibernated, begin: lifecycle.Hibernate,
	audit: auditHibernate, what: "hibernated",
	call: func(ctx context.Context, client *hostclient.Client, row models.Sandbox) (hostclient.Sandbox, error) {
		return client.Store(ctx, row.ID)
	},
}

// Hibernate puts a paused or running sandbox into the object store and returns it once its host holds nothing of it. One that runs is paused first, unless the object store
// does not answer; one that is hibernated is returned as it is. What is under way is waited for. When it fails the sandbox is paused, or as it was; its state_reason says
// why. A resume ends it. It goes on when ctx ends.
func (c *Controller) Hibernate(ctx context.Context, by By, sb id.Sandbox) (models.Sandbox, error) {
	row, err := c.Store.Sandbox(ctx, by.Account, sb)
	if err != nil || row.State == models.Hibernated {
		return row, err
	}
	return c.detached(ctx, lifecycle.HibernateOp, func(ctx context.Context) (models.Sandbox, error) {
		row, err := c.layDown(ctx, by, row)
		if err != nil && row.State != models.Hibernating && row.State != models.Hibernated { // another one was faster
			return row, err
		}
		return c.carry(ctx, by.Account, by.db(), row, hibernating)
	})
}

// layDown returns the row of a sandbox that sleeps, for which it pauses it.
func (c *Controller) layDown(ctx context.Context, by By, row models.Sandbox) (models.Sandbox, error) {
	switch row.State {
	case models.Running, models.Pausing, models.Resuming:
	default:
		return row, nil
	}
	client, err := c.Fleet.Client(row.Host)
	if err == nil {
		err = client.CheckArchive(ctx) // rather than find out when it has been paused
	}
	if err != nil {
		return row, err
	}
	return c.carry(ctx, by.Account, by.db(), row, pausing)
}

// release has the host free what it holds of a sandbox whose row says that it is hibernated. Where that fails the reconciler goes on.
func (c *Controller) release(ctx context.Context, client *hostclient.Client, sb id.Sandbox, seen hostclient.Sandbox) {
	if seen.Archive == nil {
		return
	}
	if err := client.Release(ctx, sb, seen.Archive.Key); err != nil {
		c.Log.Warn("hibernated sandbox not removed from its host: the reconciler will", "sandbox_id", sb, "error", err)
	}
}

// forget removes what is stored of a sandbox that is gone. Where that fails the next look at the archive does it.
func (c *Controller) forget(ctx context.Context, sb models.Sandbox) {
	if sb.Archive == nil {
		return
	}
	client, err := c.Fleet.archivist()
	if err == nil {
		err = client.RemoveArchive(ctx, sb.Archive.Key)
	}
	if err != nil {
		c.Log.Warn("what is stored of a destroyed sandbox is not removed yet", "sandbox_id", sb.ID, "key", sb.Archive.Key, "error", err)
	}
}

// sleeper is what a hibernated sandbox needs of a host.
func sleeper(row models.Sandbox) scheduler.Sleeper {
	return scheduler.Sleeper{
		Template: row.Template, Digest: row.Archive.TemplateDigest, Size: row.Size,
		VMM: scheduler.VMM{Driver: row.Archive.Driver, Version: row.Archive.DriverVersion, Accelerator: row.Archive.Accelerator},
	}
}

// archivist returns the client of a host that has the object store.
func (f *Fleet) archivist() (*hostclient.Client, error) {
	for _, h := range f.all() {
		if h.hasArchive() {
			return h.client, nil
		}
	}
	return nil, models.Errorf(models.Unavailable, "no host that has an object store can be reached").WithHint("try again when the host agent runs")
}

func (h *host) hasArchive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reachable && h.archive
}
