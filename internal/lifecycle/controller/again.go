package controller

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// madeBefore returns the sandboxes that an attempt before, of a request with the same idempotency key, has made, once they are. Nil: there are none, or what
// it began has failed, and the request is a new one.
func (c *Controller) madeBefore(ctx context.Context, by By) ([]models.Sandbox, error) {
	if by.Claim == nil || len(by.Claim.Targets) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Create)
	defer cancel()
	made := make([]models.Sandbox, len(by.Claim.Targets))
	for i, target := range by.Claim.Targets {
		row, err := c.Store.Sandbox(ctx, by.Account, id.Sandbox(target))
		if err == nil && row.StartedAt.IsZero() {
			row, err = c.awaitPassed(ctx, by.Account, row)
		}
		if err != nil {
			return nil, err
		}
		if row.StartedAt.IsZero() {
			return nil, nil // it never ran
		}
		made[i] = row
	}
	return made, nil
}

func one(made []models.Sandbox) models.Sandbox {
	if len(made) == 0 {
		return models.Sandbox{}
	}
	return made[0]
}

// keptBefore is madeBefore for a snapshot; the zero one for none.
func (c *Controller) keptBefore(ctx context.Context, by By) (models.Snapshot, error) {
	if by.Claim == nil || len(by.Claim.Targets) == 0 {
		return models.Snapshot{}, nil
	}
	for {
		n, err := c.Store.Snapshot(ctx, by.Account, id.Snapshot(by.Claim.Targets[0]))
		switch {
		case models.CodeOf(err) == models.NotFound:
			return models.Snapshot{}, nil // one that failed leaves nothing
		case err != nil:
			return models.Snapshot{}, err
		case n.State == models.SnapshotReady:
			return n, nil
		case n.State != models.SnapshotCreating:
			return models.Snapshot{}, nil
		case !pause(ctx, passPoll):
			return models.Snapshot{}, models.Errorf(models.Deadline, "the snapshot %s is still being made", n.ID).WithHint("try again in a few seconds")
		}
	}
}
