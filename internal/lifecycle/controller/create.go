package controller

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// draws is how many ids are tried: with a million sandboxes ever made, 1 in 4000 is taken.
const draws = 4

// Names of the steps that are the control plane's own share of a create. The host's lie between.
const (
	stepPlace    = "place"     // until the row is committed and the host is asked
	stepHostCall = "host_call" // what the call to the host took beyond the host's own steps
)

// Request is what a user asks for. Zero sizes mean the template's default.
type Request struct {
	Template string
	Size     models.Size
	Env      map[string]string
	Metadata map[string]string
	Name     string
	Network  models.NetworkPolicy

	Lifecycle    models.LifecycleChange // of the default one
	ManualResume bool                   // a request to it while it is paused is refused

	Snapshot id.Snapshot // that it is made from, in place of a template and with its size; empty for none. Env, if not nil, replaces its environment
	// SameNetwork takes the network policy of the snapshot in place of Network.
	SameNetwork bool

	Wait time.Duration // for room in the account's pool, at most
}

// Create makes a sandbox and returns it once it runs. When it is refused (Invalid, Forbidden, NotFound,
// Exhausted, or Unavailable for want of a host) nothing is left; when it fails the
// sandbox is left in state error with the reason. It goes on when ctx ends, unless it still waits for room.
func (c *Controller) Create(ctx context.Context, by By, r Request) (models.Sandbox, error) {
	return withRoom(ctx, c, by.Account, r.Wait, func() (models.Sandbox, error) {
		return c.detached(ctx, lifecycle.CreateOp, func(ctx context.Context) (models.Sandbox, error) { return c.create(ctx, by, r) })
	})
}

func (c *Controller) create(ctx context.Context, by By, r Request) (models.Sandbox, error) {
	if made, err := c.madeBefore(ctx, by); err != nil || made != nil {
		return one(made), err
	}
	from, err := c.origin(ctx, by, &r)
	if err != nil {
		return models.Sandbox{}, err
	}
	if err := models.CheckNetwork(r.Network, c.PrivateNetworks); err != nil {
		return models.Sandbox{}, err
	}
	if err := models.CheckLifecycle(r.Lifecycle.Of(c.Lifecycle)); err != nil {
		return models.Sandbox{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Create)
	defer cancel()
	began := time.Now()
	sb, err := c.insert(ctx, by, r, from)
	if err != nil {
		return models.Sandbox{}, err
	}
	place := models.Step{Name: stepPlace, Duration: time.Since(began)}
	made, err := c.callCreate(ctx, sb, r.Env)
	if err != nil {
		told := c.failed(ctx, by, sb, err)
		c.blame(ctx, sb.Host, err, told)
		return models.Sandbox{}, told
	}
	c.Fleet.acquit(sb.Host)
	made.Steps = append([]models.Step{place}, made.Steps...)
	return c.started(ctx, by, sb, made)
}

// insert commits the row in state starting, placed on a host.
func (c *Controller) insert(ctx context.Context, by By, r Request, from models.Snapshot) (models.Sandbox, error) {
	n := db.NewSandbox{
		Account: by.Account, Name: r.Name, Template: r.Template, Metadata: r.Metadata,
		Network: r.Network, AutoResume: !r.ManualResume, Lifecycle: r.Lifecycle.Of(c.Lifecycle), By: by.db(), Within: c.Limits.Create + writeLimit,
		Snapshot: r.Snapshot,
	}
	up := c.Fleet.reachable()
	place := func(hosts []*db.HostUse) (db.Placement, error) {
		if from.ID != "" {
			return db.Placement{Host: from.Host, Size: from.Size}, scheduler.Beside(views(hosts, up), from.Host, from.Size, 1, c.Overcommit)
		}
		p, err := scheduler.LeastLoaded(views(hosts, up), scheduler.Request{Template: r.Template, Size: r.Size}, c.Overcommit)
		return db.Placement{Host: p.Host, Size: p.Size}, err
	}
	for try := 1; ; try++ {
		n.ID = id.NewSandbox()
		sb, err := c.Store.CreateSandbox(ctx, n, place)
		if err == nil || models.CodeOf(err) != models.Conflict || try == draws {
			return sb, err
		}
	}
}

func views(hosts []*db.HostUse, up map[id.Host]bool) []scheduler.Host {
	out := make([]scheduler.Host, 0, len(hosts))
	for _, h := range hosts {
		reachable, ours := up[h.ID]
		if !ours {
			continue // no agent address of this control plane leads to it
		}
		v := scheduler.Host{
			ID: h.ID, Reachable: reachable, OverheadMiB: h.OverheadMiB, Archive: h.Archive, Closed: h.Closed(), Templates: h.Templates,
			VMM:      scheduler.VMM{Driver: h.Driver, Version: h.DriverVersion, Accelerator: h.Accelerator},
			Capacity: scheduler.Room{VCPUs: int64(h.VCPUs), MemoryMiB: h.MemoryMiB, DiskMiB: h.DiskMiB},
			Allotted: scheduler.Room{VCPUs: h.Use.VCPUs, MemoryMiB: h.Use.MemoryMiB + h.Use.Sandboxes*h.OverheadMiB, DiskMiB: h.Use.DiskMiB},
		}
		out = append(out, v)
	}
	return out
}

func (c *Controller) callCreate(ctx context.Context, sb models.Sandbox, env map[string]string) (hostclient.Sandbox, error) {
	client, err := c.Fleet.Client(sb.Host)
	if err != nil {
		return hostclient.Sandbox{}, err
	}
	began := time.Now()
	made, err := client.Create(ctx, hostclient.NewSandbox{ID: sb.ID, Template: sb.Template, Size: sb.Size, Env: env, Network: sb.Network, Snapshot: sb.Snapshot})
	if err != nil {
		return hostclient.Sandbox{}, err
	}
	rest := time.Since(began)
	for _, s := range made.Steps {
		rest -= s.Duration
	}
	made.Steps = append(made.Steps, models.Step{Name: stepHostCall, Duration: max(0, rest)})
	return made, nil
}

func (c *Controller) started(ctx context.Context, by By, sb models.Sandbox, made hostclient.Sandbox) (models.Sandbox, error) {
	change, err := next(sb, lifecycle.Started, by.db())
	if err != nil {
		return models.Sandbox{}, err
	}
	change.Steps, change.Resumed, change.Audit = made.Steps, made.Resumed, db.Audit{Action: auditCreate, Outcome: "ok"}
	now, err := c.write(ctx, change)
	switch {
	case err == nil:
		return now, nil
	case !errors.Is(err, db.ErrMoved):
		e := models.AsError(err)
		return models.Sandbox{}, models.Errorf(e.Code, "the sandbox %s was started, but that could not be recorded: %s", sb.ID, e.Message).
			WithHint("it will be listed as running in a short while").WithCause(err)
	case now.State == models.Running:
		return now, nil // the reconciler saw it first
	default:
		return models.Sandbox{}, c.overtaken(ctx, now)
	}
}

// failed writes down why a create failed and returns it for the user.
func (c *Controller) failed(ctx context.Context, by By, sb models.Sandbox, cause error) error {
	e := c.explain(ctx, cause, silence{
		stopped: "the control plane was stopped while the sandbox was being started",
		late:    "it did not start within %s",
		lost: models.Errorf(models.Unavailable, "lost: the host agent went away while the sandbox was being started").
			WithHint("create another one; this one can be destroyed"),
	})
	change, err := next(sb, lifecycle.Failed, by.db())
	if err != nil {
		return err
	}
	change.Reason, change.Audit = e.Message, db.Audit{Action: auditCreate, Outcome: string(e.Code)}
	now, err := c.write(ctx, change)
	if errors.Is(err, db.ErrMoved) && now.State != models.Failed {
		return c.overtaken(ctx, now)
	}
	if err != nil && !errors.Is(err, db.ErrMoved) {
		c.Log.Error("failure of a create not recorded: the reconciler will", "sandbox_id", sb.ID, "op_id", by.Request, "error", err)
	}
	return models.Errorf(e.Code, "the sandbox %s could not be started: %s", sb.ID, e.Message).WithCause(cause).AsFinal().
		WithHint("%s", cmp.Or(e.Hint, "it stays in state error until it is destroyed; its logs may tell more"))
}

// silence is what users are told of a call to a host that has brought no answer.
type silence struct {
	stopped string // by the end of this control plane
	late    string // with a verb for the time that it had
	lost    *models.Error
}

// explain says what a failed call to the host that makes something means. When the host has not
// answered it may hold something of it, which the reconciler then removes.
func (c *Controller) explain(ctx context.Context, cause error, told silence) *models.Error {
	e := models.AsError(cause)
	switch {
	case grpcerr.FromAgent(cause):
		return e
	case c.base.Err() != nil:
		return models.Errorf(models.Unavailable, "%s", told.stopped)
	case ctx.Err() != nil || e.Code == models.Deadline: // the call's end can be heard of before ctx's
		return models.Errorf(models.Deadline, told.late, c.Limits.Create)
	case e.Code == models.Unavailable:
		return told.lost
	default:
		return e
	}
}

// overtaken is the end of a create that a destroy, or the deadline, has overtaken. The host
// may have heard of the destroy before it heard of the create, so it is told again.
func (c *Controller) overtaken(ctx context.Context, now models.Sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Limits.Destroy)
	defer cancel()
	if client, err := c.Fleet.Client(now.Host); err == nil {
		if err := client.Destroy(ctx, now.ID, 0); err != nil {
			c.Log.Warn("overtaken sandbox not removed: the reconciler will", "sandbox_id", now.ID, "error", err)
		}
	}
	if now.State == models.Failed {
		return models.Errorf(models.Deadline, "the sandbox %s could not be started: %s", now.ID, now.Reason)
	}
	return models.Errorf(models.Conflict, "the sandbox %s was destroyed while it was being started", now.ID)
}

// next is the change of sb that event e makes.
func next(sb models.Sandbox, e lifecycle.Event, by db.By) (db.Change, error) {
	to, err := lifecycle.Next(sb.State, e)
	if err != nil {
		return db.Change{}, err
	}
	return db.Change{ID: sb.ID, From: sb.State, Generation: sb.Generation, To: to, By: by}, nil
}
