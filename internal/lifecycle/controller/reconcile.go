package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// ReconcileStore is what a Reconciler needs of the database beyond a Controller's Store.
type ReconcileStore interface {
	Lead(ctx context.Context) (*db.Lease, error)
	RowsForHost(ctx context.Context, h id.Host, observed []id.Sandbox) ([]db.Row, error)
	Unsettled(ctx context.Context, observed []id.Sandbox) ([]db.Row, error)
	Homeless(ctx context.Context) ([]db.Row, error)
	HibernatedToScrub(ctx context.Context, every time.Duration, tried []id.Sandbox, most int) ([]db.Sleeper, error)
	NoteScrub(ctx context.Context, row db.Row, by db.By, verified time.Time, damage string) error
	SandboxOfAny(ctx context.Context, sb id.Sandbox) (models.Sandbox, error)
	SnapshotsOfHost(ctx context.Context, h id.Host) ([]db.SnapshotRow, error)
	HomelessSnapshots(ctx context.Context) ([]db.SnapshotRow, error)
	Archived(ctx context.Context, sandboxes []id.Sandbox) ([]db.Archived, error)
	Hosts(ctx context.Context) ([]db.Host, error)
	HeldHosts(ctx context.Context) ([]db.HeldHost, error)
	EndQuarantine(ctx context.Context, h id.Host) (bool, error)
}

// Pace of a Reconciler. The zero value of each means its default.
type Pace struct {
	Tick   time.Duration // between comparisons of what has changed or is on its way; 2 s, and at once when a VM has ended
	Full   time.Duration // between comparisons of all that a host holds; 1 min
	Settle time.Duration // see patience; 5 s
	Grace  time.Duration // see patience; 30 s

	Snapshots time.Duration // between comparisons of snapshots; 10 s
	Archive   time.Duration // between looks at the object store; 1 h
	Scrub     time.Duration // between readings of what is stored of a hibernated sandbox; 24 h
	Tend      time.Duration // between looks at hosts that are drained or in quarantine, and the first wait after what failed there; 5 s
}

func (p Pace) withDefaults() Pace {
	if p.Tick == 0 {
		p.Tick = 2 * time.Second
	}
	if p.Full == 0 {
		p.Full = time.Minute
	}
	if p.Settle == 0 {
		p.Settle = 5 * time.Second
	}
	if p.Grace == 0 {
		p.Grace = 30 * time.Second
	}
	if p.Snapshots == 0 {
		p.Snapshots = 10 * time.Second
	}
	if p.Archive == 0 {
		p.Archive = time.Hour
	}
	if p.Scrub == 0 {
		p.Scrub = 24 * time.Hour
	}
	if p.Tend == 0 {
		p.Tend = 5 * time.Second
	}
	return p
}

const (
	// remediesAtOnce bounds the load that a reconciler puts on one host.
	remediesAtOnce = 8
	// A remedy that failed is tried again soon, then more seldom.
	retryFirst = time.Second
	retryMost  = time.Minute
	leaseLimit = 5 * time.Second
)

// system is the reconciler as the author of changes.
var system = db.By{Actor: "system", Operation: "reconcile"}

// Reconciler closes gaps between rows and hosts. Of several replicas one at a time is at
// work, and if two were, each change would still be a compare-and-set.
type Reconciler struct {
	c     *Controller
	store ReconcileStore
	pace  Pace
	log   *slog.Logger

	mu        sync.Mutex // guards what follows
	followers map[*host]*follower
	probes    map[id.Sandbox]bool       // made on hosts in quarantine: no row wants them, and they are no orphans
	waits     map[id.Host]time.Duration // after what failed for a host
}

// NewReconciler returns a reconciler that acts through c.
func NewReconciler(c *Controller, store ReconcileStore, pace Pace) *Reconciler {
	return &Reconciler{c: c, store: store, pace: pace.withDefaults(), log: c.Log, followers: map[*host]*follower{}, probes: map[id.Sandbox]bool{}, waits: map[id.Host]time.Duration{}}
}

// Run works until ctx ends, whenever no other replica does.
func (r *Reconciler) Run(ctx context.Context) {
	for ctx.Err() == nil {
		lease, err := r.store.Lead(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("reconciler's lease not taken", "error", err)
		}
		if lease != nil {
			r.lead(ctx, lease)
			lease.Release(ctx)
		}
		pause(ctx, r.pace.Tick)
	}
}

// lead reconciles all hosts until ctx ends or the lease is lost.
func (r *Reconciler) lead(ctx context.Context, lease *db.Lease) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	r.followNew(ctx, &wg)
	wg.Go(func() { r.keepUp(ctx) })
	wg.Go(func() { r.keepArchive(ctx) })
	wg.Go(func() { r.keepHibernated(ctx) })
	wg.Go(func() { r.tendHosts(ctx) })
	for pause(ctx, r.pace.Tick) {
		check, done := context.WithTimeout(ctx, leaseLimit)
		err := lease.Check(check)
		done()
		if err != nil {
			r.log.Warn("reconciler's lease lost", "error", err)
			return
		}
		r.followNew(ctx, &wg)
		r.adoptHomeless(ctx)
		r.homelessSnapshots(ctx)
	}
}

func (r *Reconciler) close(ctx context.Context, client *hostclient.Client, h id.Host, g gap) error {
	sb := models.Sandbox{ID: g.id, Host: h, State: g.row.State, Generation: g.row.Generation, Cold: g.row.Cold}
	switch g.remedy {
	case ask:
		if g.row.Forked && g.row.State == models.Starting {
			return r.askUnborn(ctx, client, sb)
		}
		return r.ask(ctx, client, sb)
	case markFail:
		return r.fail(ctx, sb, ended(g.seen))
	case markStart:
		return r.started(ctx, sb, g.seen)
	case finish:
		if err := r.c.free(ctx, h, g.id); err != nil {
			return err
		}
		r.log.Info("destroy finished for whoever began it", "sandbox_id", g.id)
		_, err := r.c.freed(ctx, system, sb)
		return err
	case enforce:
		return r.enforce(ctx, client, g.id)
	case note:
		return r.note(ctx, g)
	case letGo:
		return r.letGo(ctx, client, h, g)
	default:
		r.log.Warn("removing a sandbox that no row wants", "sandbox_id", g.id, "host_id", h, "state", string(g.seen.State))
		return r.c.free(ctx, h, g.id)
	}
}

// ask asks the host about a sandbox and writes down its answer. One that the host is still at is left to it: what it does with a sandbox ends by itself.
func (r *Reconciler) ask(ctx context.Context, client *hostclient.Client, sb models.Sandbox) error {
	seen, err := client.Sandbox(ctx, sb.ID)
	switch {
	case models.CodeOf(err) == models.NotFound && err != nil:
		if seen = absent(sb); told(sb, seen) == "" {
			return r.fail(ctx, sb, reasonLost)
		}
		_, err := r.c.believe(ctx, system, sb, seen, "")
		return err
	case err != nil:
		return err
	case told(sb, seen) != "":
		now, err := r.c.believe(ctx, system, sb, seen, "")
		if err == nil {
			r.log.Info("sandbox found as its host says", "sandbox_id", sb.ID, "was", string(sb.State), "is", string(now.State), "reason", now.Reason)
		}
		return err
	case seen.State == hostclient.Failed:
		return r.fail(ctx, sb, ended(seen))
	case seen.State == hostclient.Running && sb.State == models.Starting:
		return r.started(ctx, sb, seen)
	case seen.State == hostclient.Starting && sb.State == models.Starting:
		return r.fail(ctx, sb, "lost: it did not start before its deadline") // then removed, as one that must not run
	default:
		return nil
	}
}

func ended(s hostclient.Sandbox) string {
	if s.Reason == "" {
		return "its VM ended"
	}
	return s.Reason
}

func (r *Reconciler) fail(ctx context.Context, sb models.Sandbox, reason string) error {
	change, err := next(sb, lifecycle.Failed, system)
	if err != nil {
		return err
	}
	change.Reason = reason
	if action := auditOf[lifecycle.UnderWay(sb.State)]; action != "" {
		change.Audit = db.Audit{Action: action, Outcome: string(models.Unavailable)}
	}
	if _, err = r.c.write(ctx, change); err == nil {
		r.log.Warn("sandbox failed", "sandbox_id", sb.ID, "was", string(sb.State), "reason", reason)
	}
	return err
}

func (r *Reconciler) started(ctx context.Context, sb models.Sandbox, seen hostclient.Sandbox) error {
	change, err := next(sb, lifecycle.Started, system)
	if err != nil {
		return err
	}
	change.Steps, change.Resumed, change.Audit = seen.Steps, seen.Resumed, db.Audit{Action: auditCreate, Outcome: "ok"}
	if _, err = r.c.write(ctx, change); err == nil {
		r.log.Info("sandbox found running", "sandbox_id", sb.ID)
	}
	return err
}

// enforce has the host put the policy of a sandbox in force, as it is by now.
func (r *Reconciler) enforce(ctx context.Context, client *hostclient.Client, sb id.Sandbox) error {
	row, err := r.store.SandboxOfAny(ctx, sb)
	if err != nil || !networked(row) {
		return err
	}
	if err := apply(ctx, client, row); err != nil {
		return err
	}
	r.c.noteNetwork(ctx, system, row, nil)
	r.log.Info("network policy put in force", "sandbox_id", sb, "generation", row.Network.Generation)
	return nil
}

// letGo has a host free what it holds of a sandbox that is elsewhere by now: in the object store, or on another host.
func (r *Reconciler) letGo(ctx context.Context, client *hostclient.Client, h id.Host, g gap) error {
	row, err := r.store.SandboxOfAny(ctx, g.id)
	if err != nil || row.Host == h { // it has come back
		return err
	}
	if g.seen.Archive != nil {
		return client.Release(ctx, g.id, g.seen.Archive.Key) // which frees nothing else, should it come back now
	}
	r.log.Warn("removing a copy of a sandbox that is elsewhere", "sandbox_id", g.id, "host_id", h, "state", string(g.seen.State))
	return r.c.free(ctx, h, g.id)
}

// fate is what became of a host that will not come back.
func fate(host string, removed bool) string {
	if removed {
		return "its host " + host + " was removed by an operator"
	}
	return "its host " + host + " was replaced by another one"
}

// adoptHomeless ends the rows that no host can answer for.
func (r *Reconciler) adoptHomeless(ctx context.Context) {
	rows, err := r.store.Homeless(ctx)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("sandboxes without a host not reconciled", "error", err)
	}
	for _, row := range rows {
		sb := models.Sandbox{ID: row.ID, State: row.State, Generation: row.Generation, Cold: row.Cold}
		replaced := fate(row.HostName, row.Removed)
		switch {
		case row.State == models.Stopping:
			_, err = r.c.freed(ctx, system, sb)
		case row.State == models.Pending:
			err = r.fail(ctx, sb, "no host was found for it in time")
		case told(sb, absent(sb)) == lifecycle.Unfetched:
			_, err = r.c.believe(ctx, system, sb, absent(sb), replaced)
		default:
			err = r.fail(ctx, sb, "lost: "+replaced)
		}
		if err != nil && !errors.Is(err, db.ErrMoved) && ctx.Err() == nil {
			r.log.Warn("sandbox without a host not ended", "sandbox_id", row.ID, "error", err)
		}
	}
}
