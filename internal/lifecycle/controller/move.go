package controller

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// hostsTried is on how many hosts a create is tried, one after the other, at most. What fails on so many is no fault of theirs.
const hostsTried = 3

// stepMove is the step of a create that was spent on a host which could not carry it out, and on finding another one.
const stepMove = "move"

// birth is a create whose row is committed, on its way over the hosts.
type birth struct {
	by    By
	env   map[string]string
	steps []models.Step // the control plane's own, so far
	tried []id.Host     // that have failed
	why   *models.Error // the first of them has failed, for the user
}

// bear has the host of a sandbox make it, or another one where that cannot for a reason of its own, and writes down what came of it: where all fail, why the first one has.
func (c *Controller) bear(ctx context.Context, sb models.Sandbox, b birth) (models.Sandbox, error) {
	for {
		began := time.Now()
		made, err := c.callCreate(ctx, sb, b.env)
		if err == nil {
			c.Fleet.acquit(sb.Host)
			made.Steps = slices.Concat(b.steps, made.Steps)
			return c.started(ctx, b.by, sb, made)
		}
		why := c.unstarted(ctx, err)
		b.tried, b.why = append(b.tried, sb.Host), cmp.Or(b.why, why)
		moved, ok := c.moveOn(ctx, sb, b, why)
		if !ok {
			now, told := c.failed(ctx, b.by, sb, b.why)
			if told != nil {
				c.blame(ctx, sb.Host, err, told)
			}
			return now, told
		}
		c.blame(ctx, sb.Host, err, why)
		b.steps = append(b.steps, models.Step{Name: stepMove, Duration: time.Since(began)})
		sb = moved
	}
}

// moveOn moves a sandbox away from the host that could not make it, if another one may, and there is one. What the host holds of it nevertheless, or will if it comes to it late, is
// none of the sandbox: the reconciler has it removed.
func (c *Controller) moveOn(ctx context.Context, sb models.Sandbox, b birth, why *models.Error) (models.Sandbox, bool) {
	up := c.Fleet.beside(b.tried...)
	if !movable(sb) || !elsewhere(why) || len(b.tried) >= hostsTried || len(up) == 0 || ctx.Err() != nil {
		return sb, false
	}
	moved, err := c.replace(ctx, b.by, sb, why, up)
	if err != nil {
		c.Log.Warn("create not moved to another host", "sandbox_id", sb.ID, "host_id", sb.Host, "op_id", b.by.Request, "cause", why, "error", err)
		return sb, false
	}
	c.Meter.moved(why.Code)
	c.Log.Warn("create moved to another host", "sandbox_id", sb.ID, "host_id", moved.Host, "from", sb.Host, "op_id", b.by.Request, "cause", why)
	return moved, true
}

// replace writes that one of other hosts is to make the sandbox, by the deadline that it has.
func (c *Controller) replace(ctx context.Context, by By, sb models.Sandbox, why *models.Error, others map[id.Host]bool) (models.Sandbox, error) {
	change, err := next(sb, lifecycle.Moved, by.db())
	if err != nil {
		return sb, err
	}
	change.Reason, change.Within = why.Message, writeLimit
	if end, ok := ctx.Deadline(); ok {
		change.Within += time.Until(end)
	}
	return c.Store.Move(ctx, change, sb.Host, func(hosts []*db.HostUse) (id.Host, error) {
		p, err := scheduler.LeastLoaded(views(hosts, others), scheduler.Request{Template: sb.Template, Size: sb.Size}, c.Overcommit)
		return p.Host, err
	})
}

// movable tells whether another host could make a sandbox: a snapshot lies on one alone.
func movable(sb models.Sandbox) bool { return sb.Snapshot == "" }

// elsewhere tells whether what has failed on one host may succeed on another one: it was that host's own fault, or the host does not have the template which it said to have.
func elsewhere(why *models.Error) bool { return ownFault(why) || why.Code == models.NotFound }

// whileThere returns a context that ends with ctx, and when the host that is to make a sandbox has been away for as long as its other sandboxes say so, if another one could make it: its
// answer may never come. The caller calls end.
func (c *Controller) whileThere(ctx context.Context, sb models.Sandbox) (there context.Context, end func()) {
	there, cancel := context.WithCancel(ctx)
	if !movable(sb) {
		return there, cancel
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(there, hostPoll) {
			if _, lost := c.lost(sb.Host); lost && len(c.Fleet.beside(sb.Host)) > 0 {
				cancel()
			}
		}
	})
	return there, func() {
		cancel()
		wg.Wait()
	}
}

// beside returns the hosts that can be reached now, but for some.
func (f *Fleet) beside(hosts ...id.Host) map[id.Host]bool {
	up := f.reachable()
	maps.DeleteFunc(up, func(h id.Host, reachable bool) bool { return !reachable || slices.Contains(hosts, h) })
	return up
}

// own returns what a host says of a sandbox, unless it speaks of another one: what is to come out of the object store was not made there by a create, other than before a move. Then
// the host holds nothing of the sandbox.
func (c *Controller) own(ctx context.Context, row models.Sandbox, seen hostclient.Sandbox) (hostclient.Sandbox, error) {
	if row.State != models.Resuming || !row.Cold || len(seen.Steps) == 0 {
		return seen, nil
	}
	left, err := c.Store.HasLeft(ctx, row.ID, row.Host)
	if left {
		seen = absent(row)
	}
	return seen, err
}
