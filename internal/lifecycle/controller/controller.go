// Package controller carries out what users ask of sandboxes: it writes what is wanted to
// the store, has the host agents do it, and writes down what came of it.
//
// Every operation goes on to a defined end when its caller goes away, and leaves a row that
// tells the truth at every moment. What an operation could not finish, because a process or
// a connection died, the Reconciler finishes: it compares the rows with what the hosts hold.
package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// Actions of the audit log.
const (
	auditCreate  = "sandbox.create"
	auditPause   = "sandbox.pause"
	auditResume  = "sandbox.resume"
	auditDestroy = "sandbox.destroy"

	auditHibernate = "sandbox.hibernate"
)

// Store is what a Controller needs of the database.
type Store interface {
	CreateSandbox(ctx context.Context, n db.NewSandbox, place db.PlaceFunc) (models.Sandbox, error)
	CreateForks(ctx context.Context, all []db.NewSandbox, place db.PlaceFunc) ([]models.Sandbox, error)
	Transition(ctx context.Context, c db.Change) (models.Sandbox, error)
	TransitionIfRoom(ctx context.Context, c db.Change, fit db.FitFunc) (models.Sandbox, error)
	TransitionIf(ctx context.Context, c db.Change, still db.StillFunc) (models.Sandbox, error)
	TransitionPlaced(ctx context.Context, c db.Change, place db.HostFunc) (models.Sandbox, error)
	Move(ctx context.Context, c db.Change, from id.Host, place db.HostFunc) (models.Sandbox, error)
	HasLeft(ctx context.Context, sb id.Sandbox, host id.Host) (bool, error)
	Sandbox(ctx context.Context, account id.Account, sb id.Sandbox) (models.Sandbox, error)
	Use(ctx context.Context, account id.Account, sb id.Sandbox, lease time.Duration) (models.Sandbox, error)
	SetMetadata(ctx context.Context, account id.Account, sb id.Sandbox, by db.By, metadata map[string]string) (models.Sandbox, error)
	ChangeLifecycle(ctx context.Context, account id.Account, sb id.Sandbox, by db.By, restart bool, change db.LifecycleFunc) (models.Sandbox, error)
	ChangeNetwork(ctx context.Context, account id.Account, sb id.Sandbox, by db.By, change db.NetworkFunc) (models.Sandbox, error)
	NoteNetwork(ctx context.Context, sb models.Sandbox, by db.By, outcome string) error
	SnapshotStore
	Quarantine(ctx context.Context, h id.Host, reason string) (bool, error)
	RoomStore
}

// Limits of operations. The zero value of each means its default.
type Limits struct {
	Create  time.Duration // until a sandbox must run; 2 min, as long as an agent tries
	Sleep   time.Duration // until a pause or a resume must have ended; 2 min, as long as an agent tries
	Archive time.Duration // until a hibernation, or the resume of one that is hibernated, must have ended; 15 min, as long as an agent tries
	Wake    time.Duration // that a request waits for a sandbox that is resumed for it; 1 min
	Destroy time.Duration // until a destroy is looked into; 30 s beyond Grace
	Grace   time.Duration // that a guest has to end in order; 2 s
	Use     time.Duration // that a sandbox counts as used after a request, until that is written again; 5 s. It is the same for all replicas
	Lost    time.Duration // that a host must be away before its sandboxes say so; 5 s
}

// writeLimit bounds the write of an outcome, which happens also after the operation was cancelled.
const writeLimit = 10 * time.Second

func (l Limits) withDefaults() Limits {
	if l.Create == 0 {
		l.Create = 2 * time.Minute
	}
	if l.Sleep == 0 {
		l.Sleep = 2 * time.Minute
	}
	if l.Archive == 0 {
		l.Archive = 15 * time.Minute
	}
	if l.Wake == 0 {
		l.Wake = time.Minute
	}
	if l.Destroy == 0 {
		l.Destroy = 30 * time.Second
	}
	if l.Grace == 0 {
		l.Grace = 2 * time.Second
	}
	if l.Use == 0 {
		l.Use = models.MinAutoPause
	}
	if l.Lost == 0 {
		l.Lost = 5 * time.Second
	}
	return l
}

// Options of a Controller. Store, Fleet and Log are required.
type Options struct {
	Store      Store
	Fleet      *Fleet
	Log        *slog.Logger
	Limits     Limits
	Overcommit scheduler.Overcommit // zero for the default

	PrivateNetworks []netip.Prefix // that policies of sandboxes may allow

	Lifecycle models.Lifecycle // of sandboxes whose creation does not say

	Meter Meter // zero: nobody counts what is done
}

// Controller carries out operations. All methods may be called at the same time.
type Controller struct {
	Options
	guests *guests
	uses   *uses
	rooms  *rooms
	wakes  singleflight.Group // by sandbox: many requests wait for one resume
	base   context.Context    // of all operations
	cancel context.CancelFunc

	retiring context.Context // see Retire
	retire   context.CancelFunc

	mu     sync.Mutex // guards closed, and wg against an Add during Wait
	closed bool
	wg     sync.WaitGroup
}

// New returns a controller, whose Close the caller must call.
func New(opts Options) *Controller {
	opts.Limits = opts.Limits.withDefaults()
	if opts.Overcommit == (scheduler.Overcommit{}) {
		opts.Overcommit = scheduler.DefaultOvercommit
	}
	base, cancel := context.WithCancel(context.Background())
	opts.Lifecycle.OnTimeout = cmp.Or(opts.Lifecycle.OnTimeout, models.DestroyOnTimeout)
	c := &Controller{Options: opts, uses: &uses{of: map[id.Sandbox]*use{}}, base: base, cancel: cancel}
	c.retiring, c.retire = context.WithCancel(base)
	c.rooms = &rooms{waiting: map[id.Account]map[chan struct{}]struct{}{}}
	c.guests = &guests{dial: c.dial, kept: map[id.Sandbox]*guest{}}
	opts.Fleet.whenLost(c.guests.idle)
	return c
}

// errStopping is what is told of what another control plane can do.
var errStopping = models.Errorf(models.Unavailable, "the control plane is stopping").WithHint("try again in a few seconds")

// Retire has those end who wait for room: they can wait at another control plane. It is for the begin of this process' end; what is under way goes on, until Close.
func (c *Controller) Retire() { c.retire() }

// Close refuses new operations and waits for those under way until ctx ends, then cancels
// them and waits for their ends, which are written down. At last it ends what is under way in guests.
func (c *Controller) Close(ctx context.Context) {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	defer context.AfterFunc(ctx, c.cancel)()
	c.wg.Wait()
	c.cancel()
	c.rooms.wg.Wait()
	c.guests.close()
}

// By is a request: who asks and for whom.
type By struct {
	Account id.Account
	Key     id.Key
	Request id.Request
	Claim   *db.Claim // of the request's idempotency key; nil for none
}

func (b By) db() db.By {
	return db.By{Actor: string(b.Key), Operation: string(b.Request), Claim: b.Claim}
}

// detached runs an operation to its end, also when ctx ends first; then only the answer is lost.
func (c *Controller) detached(ctx context.Context, op lifecycle.Operation, do func(context.Context) (models.Sandbox, error)) (models.Sandbox, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return models.Sandbox{}, errStopping
	}
	c.wg.Add(1)
	c.mu.Unlock()
	out := make(chan outcome, 1)
	go func() {
		defer c.wg.Done()
		began := time.Now()
		o := c.guarded(do)
		c.Meter.observe(op, o.err, time.Since(began))
		out <- o
	}()
	select {
	case o := <-out:
		return o.sb, o.err
	case <-ctx.Done():
		return models.Sandbox{}, models.AsError(ctx.Err())
	}
}

// outcome is what came of an operation.
type outcome struct {
	sb  models.Sandbox
	err error
}

// guarded turns a panic of op into an error: one broken operation must not end the others.
func (c *Controller) guarded(op func(context.Context) (models.Sandbox, error)) (o outcome) {
	defer func() {
		if v := recover(); v != nil {
			c.Log.Error("panic in an operation", "panic", v, "stack", string(debug.Stack()))
			o.err = models.AsError(fmt.Errorf("panic: %v", v))
		}
	}()
	o.sb, o.err = op(c.base)
	return o
}

// write makes a change, also when ctx has ended: what happened must be written down.
func (c *Controller) write(ctx context.Context, change db.Change) (models.Sandbox, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	row, err := c.Store.Transition(ctx, change)
	if err == nil && (row.State == models.Stopped || row.State == models.Failed) {
		c.guests.end(row.ID)
	}
	return row, err
}

func notRunning(sb models.Sandbox) error {
	e := models.Errorf(models.Precondition, "the sandbox %s is in state %s, not running", sb.ID, sb.State)
	switch sb.State {
	case models.Pending, models.Starting:
		return e.WithHint("wait until it runs")
	case models.Pausing, models.Paused, models.Resuming, models.Hibernating, models.Hibernated:
		return e.WithHint("POST /v1/sandboxes/%s/resume has it go on", sb.ID)
	case models.Failed:
		return e.WithHint("its end: %s", sb.Reason)
	default:
		return e.WithHint("create another one")
	}
}

// Console returns the last part of a sandbox's console, empty when its host has nothing of it.
func (c *Controller) Console(ctx context.Context, account id.Account, sb id.Sandbox) ([]byte, error) {
	row, err := c.Store.Sandbox(ctx, account, sb)
	if err != nil || row.Host == "" {
		return nil, err
	}
	client, err := c.Fleet.Client(row.Host)
	if err != nil {
		return nil, err
	}
	text, err := client.Console(ctx, sb)
	if models.CodeOf(err) == models.NotFound {
		return nil, nil
	}
	return text, err
}
