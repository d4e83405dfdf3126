package controller

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// SetLifecycle changes what becomes of a sandbox by itself, and returns the sandbox. A timeout that change names begins now. Precondition when the
// sandbox is being destroyed, or was.
func (c *Controller) SetLifecycle(ctx context.Context, by By, sb id.Sandbox, change models.LifecycleChange) (models.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return c.Store.ChangeLifecycle(ctx, by.Account, sb, by.db(), change.Timeout != nil, func(now models.Sandbox) (models.Lifecycle, error) {
		if now.State == models.Stopping || now.State == models.Stopped {
			return models.Lifecycle{}, models.Errorf(models.Precondition, "the sandbox %s is in state %s: nothing becomes of it any more", sb, now.State)
		}
		l := change.Of(now.Lifecycle)
		return l, models.CheckLifecycle(l)
	})
}

// SetMetadata gives a sandbox other metadata, in whatever state it is, and returns the sandbox.
func (c *Controller) SetMetadata(ctx context.Context, by By, sb id.Sandbox, metadata map[string]string) (models.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return c.Store.SetMetadata(ctx, by.Account, sb, by.db(), metadata)
}
