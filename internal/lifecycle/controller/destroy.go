package controller

import (
	"context"
	"errors"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Destroy ends a sandbox, whatever its state, and returns it once it is stopped. Repeated
// and simultaneous calls have the same answer. When its host cannot be reached it stays in
// state stopping until the reconciler can finish, and the error says so. It goes on when ctx ends.
func (c *Controller) Destroy(ctx context.Context, by By, sb id.Sandbox) (models.Sandbox, error) {
	row, err := c.Store.Sandbox(ctx, by.Account, sb)
	if err != nil || row.State == models.Stopped {
		return row, err
	}
	return c.detached(ctx, lifecycle.DestroyOp, func(ctx context.Context) (models.Sandbox, error) { return c.destroy(ctx, by, row) })
}

func (c *Controller) destroy(ctx context.Context, by By, sb models.Sandbox) (models.Sandbox, error) {
	sb, err := c.stopping(ctx, by, sb)
	if err != nil || sb.State == models.Stopped {
		return sb, err
	}
	return c.end(ctx, by.db(), sb)
}

// destroyIf destroys a sandbox for a reason that is not its user's word, if still says so at the moment when it begins.
func (c *Controller) destroyIf(ctx context.Context, by db.By, sb models.Sandbox, why string, still db.StillFunc) (models.Sandbox, error) {
	change, err := next(sb, lifecycle.Destroy, by)
	if err != nil {
		return sb, err
	}
	change.Reason, change.Within = why, c.Limits.Grace+c.Limits.Destroy
	change.Audit = db.Audit{Action: auditDestroy, Outcome: "accepted"}
	if sb, err = c.Store.TransitionIf(ctx, change, still); err != nil {
		return sb, err
	}
	return c.end(ctx, by, sb)
}

// end has the host end a sandbox that is stopping, and writes that down.
func (c *Controller) end(ctx context.Context, by db.By, sb models.Sandbox) (models.Sandbox, error) {
	if err := c.free(ctx, sb.Host, sb.ID); err != nil {
		return models.Sandbox{}, unfinished(sb.ID, err)
	}
	c.forget(ctx, sb)
	return c.freed(ctx, by, sb)
}

// stopping brings sb to stopping, or finds that another destroy did, or has finished.
func (c *Controller) stopping(ctx context.Context, by By, sb models.Sandbox) (models.Sandbox, error) {
	for sb.State != models.Stopped && lifecycle.Meet(lifecycle.DestroyOp, lifecycle.UnderWay(sb.State)) != lifecycle.Joins {
		change, err := next(sb, lifecycle.Destroy, by.db())
		if err != nil {
			return sb, err
		}
		change.Within = c.Limits.Grace + c.Limits.Destroy
		change.Audit = db.Audit{Action: auditDestroy, Outcome: "accepted"}
		// ErrMoved brings the row as it is now; its state has moved on, and there are
		// only so many states before stopped.
		if sb, err = c.write(ctx, change); err != nil && !errors.Is(err, db.ErrMoved) {
			return sb, err
		}
	}
	return sb, nil
}

// free has the host end the sandbox. One that was never placed needs no host.
func (c *Controller) free(ctx context.Context, host id.Host, sb id.Sandbox) error {
	if host == "" {
		return nil
	}
	client, err := c.Fleet.Client(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Grace+c.Limits.Destroy)
	defer cancel()
	return client.Destroy(ctx, sb, c.Limits.Grace)
}

func (c *Controller) freed(ctx context.Context, by db.By, sb models.Sandbox) (models.Sandbox, error) {
	change, err := next(sb, lifecycle.Freed, by)
	if err != nil {
		return sb, err
	}
	change.Audit = db.Audit{Action: auditDestroy, Outcome: "ok"}
	now, err := c.write(ctx, change)
	if errors.Is(err, db.ErrMoved) && now.State == models.Stopped {
		return now, nil // another destroy, or the reconciler, was faster
	}
	return now, err
}

func unfinished(sb id.Sandbox, cause error) error {
	e := models.AsError(cause)
	return models.Errorf(e.Code, "the sandbox %s is not destroyed yet: %s", sb, e.Message).WithCause(cause).
		WithHint("it stays in state stopping; the platform tries again by itself until it is destroyed")
}
