package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// change brings a sandbox from one state in which it can stay to another, by way of a passing one.
type change struct {
	op    lifecycle.Operation
	from  []models.State
	to    models.State
	begin lifecycle.Event // leaves from
	audit string
	what  string       // it is called, of a sandbox
	why   string       // of one that nobody asked for
	still db.StillFunc // whether such a one is still to be; nil for one that was asked for
	call  func(context.Context, *hostclient.Client, models.Sandbox) (hostclient.Sandbox, error)
}

var (
	pausing = change{
		op: lifecycle.PauseOp, from: []models.State{models.Running}, to: models.Paused, begin: lifecycle.Pause,
		audit: auditPause, what: "paused",
		call: func(ctx context.Context, client *hostclient.Client, row models.Sandbox) (hostclient.Sandbox, error) {
			return client.Pause(ctx, row.ID)
		},
	}
	resuming = change{
		op: lifecycle.ResumeOp, from: []models.State{models.Paused, models.Hibernated, models.Hibernating}, to: models.Running, begin: lifecycle.Resume,
		audit: auditResume, what: "resumed", call: resumeOn,
	}
)

// resumeOn has the host resume a sandbox, which it fetches where that is hibernated, under the policy of its row: the host may not have been told of that
// while it slept.
func resumeOn(ctx context.Context, client *hostclient.Client, row models.Sandbox) (hostclient.Sandbox, error) {
	if row.Cold {
		if _, err := client.Fetch(ctx, row.ID, row.Archive.Key, row.Network); err != nil {
			return hostclient.Sandbox{}, err
		}
	}
	if err := apply(ctx, client, row); err != nil {
		return hostclient.Sandbox{}, err
	}
	return client.Resume(ctx, row.ID)
}

// Pause puts a running sandbox to sleep and returns it once its host has its memory back. One that is paused is returned as it is, one that is being paused or
// resumed is waited for. When it fails the sandbox is as it was, or has failed if its VM is gone; its state_reason says why. It goes on when ctx ends.
func (c *Controller) Pause(ctx context.Context, by By, sb id.Sandbox) (models.Sandbox, error) {
	row, err := c.Store.Sandbox(ctx, by.Account, sb)
	if err != nil || row.State == models.Paused {
		return row, err
	}
	return c.detached(ctx, lifecycle.PauseOp, func(ctx context.Context) (models.Sandbox, error) {
		return c.carry(ctx, by.Account, by.db(), row, pausing)
	})
}

// Resume has a paused or hibernated sandbox go on and returns it once it can be used. It takes room on its host again, or on any that it can go on on: Exhausted when
// there is none. A hibernation under way is given up for it. Otherwise it is like Pause.
func (c *Controller) Resume(ctx context.Context, by By, sb id.Sandbox) (models.Sandbox, error) {
	return c.ResumeWithin(ctx, by, sb, 0)
}

// ResumeWithin is Resume that waits for room in the account's pool, for wait at most and as long as ctx.
func (c *Controller) ResumeWithin(ctx context.Context, by By, sb id.Sandbox, wait time.Duration) (models.Sandbox, error) {
	return withRoom(ctx, c, by.Account, wait, func() (models.Sandbox, error) { return c.resume(ctx, by, sb) })
}

func (c *Controller) resume(ctx context.Context, by By, sb id.Sandbox) (models.Sandbox, error) {
	row, err := c.Store.Sandbox(ctx, by.Account, sb)
	if err != nil || row.State == models.Running {
		return row, err
	}
	return c.detached(ctx, lifecycle.ResumeOp, func(ctx context.Context) (models.Sandbox, error) {
		return c.carry(ctx, by.Account, by.db(), row, resuming)
	})
}

// carry does ch, after what is under way, unless another one has done it.
func (c *Controller) carry(ctx context.Context, account id.Account, by db.By, row models.Sandbox, ch change) (models.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Limits.of(lifecycle.UnderWay(row.State), row)+c.Limits.of(ch.op, row)) // one before it, and its own
	defer cancel()
	for joined := false; ; {
		may := slices.Contains(ch.from, row.State)
		switch {
		case row.State == ch.to:
			return row, nil
		case may && joined && row.Reason != "": // what it has joined has failed
			return row, models.Errorf(models.Unavailable, "the sandbox %s could not be %s: %s", row.ID, ch.what, row.Reason)
		case may:
			begun, err := c.beginChange(ctx, by, row, ch)
			if err == nil {
				return c.onHost(ctx, by, begun, ch)
			}
			if !errors.Is(err, db.ErrMoved) {
				return row, err
			}
			row = begun
			continue
		case row.State != models.Pausing && row.State != models.Resuming && row.State != models.Hibernating:
			return row, isNot(row, ch)
		}
		joined = lifecycle.Meet(ch.op, lifecycle.UnderWay(row.State)) == lifecycle.Joins
		var err error
		if row, err = c.awaitPassed(ctx, account, row); err != nil {
			return row, err
		}
	}
}

// of is how long an operation on a sandbox may take.
func (l Limits) of(op lifecycle.Operation, row models.Sandbox) time.Duration {
	if op == lifecycle.HibernateOp || op == lifecycle.ResumeOp && row.Cold {
		return l.Archive
	}
	return l.Sleep
}

// isNot says why ch cannot be done.
func isNot(row models.Sandbox, ch change) error {
	if row.State != models.Running {
		return notRunning(row)
	}
	return models.Errorf(models.Conflict, "the sandbox %s was resumed before it could be %s", row.ID, ch.what)
}

// beginChange writes that ch is under way. A resume needs room for it: on its host, or, of what is hibernated, on any.
func (c *Controller) beginChange(ctx context.Context, by db.By, row models.Sandbox, ch change) (models.Sandbox, error) {
	begun, err := next(row, ch.begin, by)
	if err != nil {
		return row, err
	}
	begun.Within = c.Limits.of(ch.op, row) + writeLimit
	begun.Audit = db.Audit{Action: ch.audit, Outcome: "accepted"}
	if ch.still != nil {
		begun.Reason = ch.why
		return c.Store.TransitionIf(ctx, begun, ch.still)
	}
	if ch.op != lifecycle.ResumeOp {
		return c.write(ctx, begun)
	}
	up := c.Fleet.reachable()
	if row.Cold {
		return c.Store.TransitionPlaced(ctx, begun, func(hosts []*db.HostUse) (id.Host, error) {
			return scheduler.Anywhere(views(hosts, up), sleeper(row), c.Overcommit)
		})
	}
	begun.Host = row.Host
	return c.Store.TransitionIfRoom(ctx, begun, func(hosts []*db.HostUse) error {
		return scheduler.Wake(views(hosts, up), row.Host, row.Size, c.Overcommit)
	})
}

// passPoll is how often a row is read that somebody else is about to change.
const passPoll = 50 * time.Millisecond

// awaitPassed returns the row once it is in a state in which it can stay.
func (c *Controller) awaitPassed(ctx context.Context, account id.Account, row models.Sandbox) (models.Sandbox, error) {
	for lifecycle.Passing(row.State) {
		if !pause(ctx, passPoll) {
			return row, models.Errorf(models.Deadline, "the sandbox %s is still %s", row.ID, row.State).WithHint("try again in a few seconds")
		}
		now, err := c.Store.Sandbox(ctx, account, row.ID)
		if err != nil {
			return row, err
		}
		row = now
	}
	return row, nil
}

// onHost has the host do ch and writes down what came of it.
func (c *Controller) onHost(ctx context.Context, by db.By, row models.Sandbox, ch change) (models.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Limits.of(ch.op, row))
	defer cancel()
	client, err := c.Fleet.Client(row.Host)
	if err != nil {
		return row, c.unsettled(row, ch, err) // until its host is known, the reconciler waits
	}
	seen, err := ch.call(ctx, client, row)
	if err != nil {
		return c.fellBack(ctx, client, by, row, ch, err)
	}
	now, err := c.believe(ctx, by, row, seen, "")
	if now.State == models.Hibernated {
		c.release(ctx, client, row.ID, seen)
	}
	switch {
	case errors.Is(err, db.ErrMoved) && now.State == ch.to:
		return now, nil // the reconciler saw it first
	case errors.Is(err, db.ErrMoved):
		return now, models.Errorf(models.Conflict, "the sandbox %s was resumed, destroyed, or failed, while it was being %s", row.ID, ch.what)
	}
	return now, err
}

// hostPoll is how often a host is asked about a sandbox that it has not come to an end with, or that cannot be reached.
const hostPoll = 250 * time.Millisecond

// fellBack writes down what the host says of a sandbox after ch has failed on it, and returns why it failed. A host that cannot be reached is asked until
// ctx ends; then the reconciler goes on.
func (c *Controller) fellBack(ctx context.Context, client *hostclient.Client, by db.By, row models.Sandbox, ch change, cause error) (models.Sandbox, error) {
	for {
		seen, err := client.Sandbox(ctx, row.ID)
		if models.CodeOf(err) == models.NotFound && err != nil {
			seen, err = absent(row), nil
		}
		if err == nil {
			now, err := c.believe(ctx, by, row, seen, models.AsError(cause).Message)
			if now.State == ch.to {
				return now, nil
			}
			if err == nil || errors.Is(err, db.ErrMoved) {
				return now, present(row.ID, cause)
			}
		}
		if !pause(ctx, hostPoll) {
			return row, c.unsettled(row, ch, cause)
		}
	}
}

func (c *Controller) unsettled(row models.Sandbox, ch change, cause error) error {
	e := models.AsError(cause)
	return models.Errorf(e.Code, "the sandbox %s is not %s yet: %s", row.ID, ch.what, e.Message).WithCause(cause).
		WithHint("it stays in state %s until its host answers, and then is what the host says", row.State)
}

// errUnderWay means that a host has not come to an end with a sandbox.
var errUnderWay = models.Errorf(models.Unavailable, "the host is still at it")

// reasonLost is why a sandbox has failed that its host does not know.
const reasonLost = "lost: the host holds nothing of it"

// absent is what it means that a host does not know a sandbox: one that it was to fetch is as it was.
func absent(row models.Sandbox) hostclient.Sandbox {
	if row.State == models.Resuming && row.Cold {
		return hostclient.Sandbox{ID: row.ID, State: hostclient.Gone, Reason: "its host has not fetched it"}
	}
	return hostclient.Sandbox{ID: row.ID, State: hostclient.Failed, Reason: reasonLost}
}

// believe writes down what a host says of a sandbox that is, or was, on its way between running and paused. why is why it is as it was, if it is.
func (c *Controller) believe(ctx context.Context, by db.By, row models.Sandbox, seen hostclient.Sandbox, why string) (models.Sandbox, error) {
	event := told(row, seen)
	if event == "" {
		return row, errUnderWay
	}
	change, err := next(row, event, by)
	if err != nil {
		return row, err
	}
	change.Audit.Outcome = "ok"
	switch event {
	case lifecycle.Woke:
		change.Resumed = seen.Resumed
	case lifecycle.Stored:
		change.Archive = seen.Archive
	case lifecycle.Froze:
		change.Reason = seen.Reason // of one that sleeps again, though nobody asked for it
	case lifecycle.Undone, lifecycle.Unfetched:
		change.Audit.Outcome = string(models.Unavailable)
		if change.Reason = seen.Reason; why != "" {
			change.Reason = why
		}
	case lifecycle.Failed:
		change.Reason, change.Audit.Outcome = ended(seen), string(models.Unavailable)
	default: // nothing more to say
	}
	change.Audit.Action = auditOf[lifecycle.UnderWay(row.State)] // none where nobody asked for it
	return c.write(ctx, change)
}

// auditOf is what the audit log calls the operations that a host's word ends.
var auditOf = map[lifecycle.Operation]string{lifecycle.CreateOp: auditCreate, lifecycle.PauseOp: auditPause, lifecycle.ResumeOp: auditResume,
	lifecycle.HibernateOp: auditHibernate,
}

// told is what a host's word means for a row, "" where it means nothing, or nothing yet.
func told(row models.Sandbox, seen hostclient.Sandbox) lifecycle.Event {
	switch {
	case row.State == models.Hibernating && seen.State == hostclient.Paused && seen.Archive != nil:
		return lifecycle.Stored
	case row.State == models.Resuming && row.Cold && seen.State == hostclient.Gone:
		return lifecycle.Unfetched
	}
	return tells[row.State][seen.State]
}

var tells = map[models.State]map[hostclient.State]lifecycle.Event{
	models.Running:  {hostclient.Paused: lifecycle.Froze, hostclient.Failed: lifecycle.Failed},
	models.Pausing:  {hostclient.Paused: lifecycle.Froze, hostclient.Running: lifecycle.Undone, hostclient.Failed: lifecycle.Failed},
	models.Paused:   {hostclient.Running: lifecycle.Woke, hostclient.Failed: lifecycle.Failed},
	models.Resuming: {hostclient.Running: lifecycle.Woke, hostclient.Paused: lifecycle.Undone, hostclient.Failed: lifecycle.Failed},

	models.Hibernating: {hostclient.Paused: lifecycle.Undone, hostclient.Running: lifecycle.Woke, hostclient.Failed: lifecycle.Failed},
}
