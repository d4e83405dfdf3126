package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// ForkRequest is what a user asks of a fork.
type ForkRequest struct {
	Count    int
	Metadata map[string]string // of each child; nil for the parent's
	Wait     time.Duration     // for room in the account's pool, at most
}

// Fork makes running children of a running or paused sandbox and returns them once all of them run. They have the parent's memory, disk, size, network policy
// and, unless r says otherwise, metadata. All of them are made, or none: when it is refused there are no rows, when it fails they are stopped, and the error says why. The
// parent stays in its state. It goes on when ctx ends, unless it still waits for room.
func (c *Controller) Fork(ctx context.Context, by By, parent id.Sandbox, r ForkRequest) ([]models.Sandbox, error) {
	return withRoom(ctx, c, by.Account, r.Wait, func() ([]models.Sandbox, error) { return c.forkOnce(ctx, by, parent, r) })
}

func (c *Controller) forkOnce(ctx context.Context, by By, parent id.Sandbox, r ForkRequest) ([]models.Sandbox, error) {
	var children []models.Sandbox
	_, err := c.detached(ctx, forkOp, func(ctx context.Context) (_ models.Sandbox, err error) {
		children, err = c.fork(ctx, by, parent, r)
		return models.Sandbox{}, err
	})
	if err != nil {
		return nil, err // children may still be written to
	}
	return children, nil
}

func (c *Controller) fork(ctx context.Context, by By, parent id.Sandbox, r ForkRequest) ([]models.Sandbox, error) {
	if made, err := c.madeBefore(ctx, by); err != nil || made != nil {
		return made, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Create)
	defer cancel()
	row, err := c.still(ctx, by.Account, parent)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	children, err := c.insertForks(ctx, by, row, r)
	if err != nil {
		return nil, err
	}
	place := models.Step{Name: stepPlace, Duration: time.Since(began)}
	made, err := c.callFork(ctx, row, children)
	if err != nil {
		return nil, c.unforked(ctx, by, row.ID, children, err)
	}
	for i := range children {
		made[i].Steps = append([]models.Step{place}, made[i].Steps...)
		if children[i], err = c.started(ctx, by, children[i], made[i]); err != nil {
			return nil, err
		}
	}
	return children, nil
}

// still returns the row of a sandbox that runs or is paused, after what is under way.
func (c *Controller) still(ctx context.Context, account id.Account, sb id.Sandbox) (models.Sandbox, error) {
	row, err := c.Store.Sandbox(ctx, account, sb)
	if err == nil && (row.State == models.Pausing || row.State == models.Resuming) {
		row, err = c.awaitPassed(ctx, account, row)
	}
	if err == nil && row.State != models.Running && row.State != models.Paused {
		err = notRunning(row)
	}
	return row, err
}

// insertForks commits the rows of all children in state starting, beside their parent.
func (c *Controller) insertForks(ctx context.Context, by By, parent models.Sandbox, r ForkRequest) ([]models.Sandbox, error) {
	up := c.Fleet.reachable()
	place := func(hosts []*db.HostUse) (db.Placement, error) {
		err := scheduler.Beside(views(hosts, up), parent.Host, parent.Size, r.Count, c.Overcommit)
		return db.Placement{Host: parent.Host, Size: parent.Size}, err
	}
	for try := 1; ; try++ {
		children, err := c.Store.CreateForks(ctx, c.newForks(by, parent, r), place)
		if err == nil || models.CodeOf(err) != models.Conflict || try == draws {
			return children, err
		}
	}
}

func (c *Controller) newForks(by By, parent models.Sandbox, r ForkRequest) []db.NewSandbox {
	metadata := r.Metadata
	if metadata == nil {
		metadata = parent.Metadata
	}
	all := make([]db.NewSandbox, r.Count)
	for i := range all {
		all[i] = db.NewSandbox{
			ID: id.NewSandbox(), Account: by.Account, Name: parent.Name, Template: parent.Template, Metadata: metadata, Network: parent.Network,
			AutoResume: parent.AutoResume, Lifecycle: parent.Lifecycle, Parent: parent.ID, By: by.db(), Within: c.Limits.Create + writeLimit,
		}
	}
	return all
}

func (c *Controller) callFork(ctx context.Context, parent models.Sandbox, children []models.Sandbox) ([]hostclient.Sandbox, error) {
	client, err := c.Fleet.Client(parent.Host)
	if err != nil {
		return nil, err
	}
	asked := make([]hostclient.NewFork, len(children))
	for i, child := range children {
		asked[i] = hostclient.NewFork{ID: child.ID, Network: child.Network}
	}
	return client.Fork(ctx, parent.ID, asked)
}

// unforked ends the rows of children that were not made, or of which it is not known, and returns why for the user.
func (c *Controller) unforked(ctx context.Context, by By, parent id.Sandbox, children []models.Sandbox, cause error) error {
	e := c.explain(ctx, present(parent, cause), childless)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Limits.Grace+c.Limits.Destroy)
	defer cancel()
	var wg sync.WaitGroup
	for _, child := range children {
		wg.Go(func() {
			if err := c.unmake(ctx, by.db(), child, e); err != nil {
				c.Log.Warn("child of a fork that failed not removed: the reconciler will", "sandbox_id", child.ID, "op_id", by.Request, "error", err)
			}
		})
	}
	wg.Wait()
	return models.Errorf(e.Code, "the sandbox %s could not be forked: %s", parent, e.Message).WithCause(cause).
		WithHint("%s", cmp.Or(e.Hint, "there are no children of it, and it is as it was"))
}

// childless is what is told of a host that has made neither children nor a snapshot of a sandbox, or has not said so.
var childless = silence{
	stopped: "the control plane was stopped meanwhile",
	late:    "it was not done within %s",
	lost:    models.Errorf(models.Unavailable, "its host agent went away meanwhile"),
}

// unmake ends a sandbox that was never handed out: its row is stopped, with why.
func (c *Controller) unmake(ctx context.Context, by db.By, sb models.Sandbox, why *models.Error) error {
	sb, err := c.disown(ctx, by, sb, why)
	if err != nil || sb.State == models.Stopped {
		return err
	}
	if err := c.free(ctx, sb.Host, sb.ID); err != nil {
		return err
	}
	_, err = c.freed(ctx, by, sb)
	return err
}

// disown brings the row of a child, whatever its state, to stopping.
func (c *Controller) disown(ctx context.Context, by db.By, sb models.Sandbox, why *models.Error) (models.Sandbox, error) {
	for lifecycle.UnderWay(sb.State) != lifecycle.DestroyOp && sb.State != models.Stopped {
		change, err := next(sb, lifecycle.Destroy, by)
		if err != nil {
			return sb, err
		}
		change.Reason, change.Within = fmt.Sprintf("the fork failed: %s", why.Message), c.Limits.Grace+c.Limits.Destroy
		change.Audit = db.Audit{Action: auditCreate, Outcome: string(why.Code)}
		now, err := c.write(ctx, change)
		if err != nil && !errors.Is(err, db.ErrMoved) {
			return sb, err
		}
		sb = now // as it is now, also where another was faster
	}
	return sb, nil
}

// askUnborn asks the host about the child of a fork that nobody has come to an end with. It runs, or there is none: a host makes all children of a fork or none.
func (r *Reconciler) askUnborn(ctx context.Context, client *hostclient.Client, sb models.Sandbox) error {
	seen, err := client.Sandbox(ctx, sb.ID)
	if err == nil && seen.State == hostclient.Running {
		return r.started(ctx, sb, seen)
	}
	if err != nil && models.CodeOf(err) != models.NotFound {
		return err
	}
	return r.c.unmake(ctx, system, sb, models.Errorf(models.Unavailable, "lost: its host has not made it"))
}
