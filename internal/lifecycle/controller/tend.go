package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// tendMost is the longest wait after what failed again and again.
	tendMost = 5 * time.Minute
	// leavingAtOnce bounds how many sandboxes leave one host at the same time: each writes as much as the host's way to the object store takes.
	leavingAtOnce = 4
	// reasonDrained is why a sandbox sleeps whose host is drained.
	reasonDrained = "its host is being drained"
)

// tendHosts moves what sleeps away from hosts that are drained, and probes those in quarantine, as long as ctx. It is the one replica's that reconciles.
func (r *Reconciler) tendHosts(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex // guards busy
	busy := map[id.Host]bool{}
	for pause(ctx, r.pace.Tend) {
		hosts, err := r.tended(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("hosts not looked after", "error", err)
		}
		up := r.c.Fleet.reachable()
		for _, h := range hosts {
			mu.Lock()
			if up[h.ID] && r.wants(h) && !busy[h.ID] {
				busy[h.ID] = true
				wg.Go(func() {
					r.tend(ctx, h)
					mu.Lock()
					defer mu.Unlock()
					delete(busy, h.ID)
				})
			}
			mu.Unlock()
		}
	}
}

// tended returns the hosts and what they hold, or none where no host can want anything: what they hold is expensive to count.
func (r *Reconciler) tended(ctx context.Context) ([]db.HeldHost, error) {
	hosts, err := r.store.Hosts(ctx)
	if err != nil || !slices.ContainsFunc(hosts, func(h db.Host) bool { return h.Closed() != "" }) {
		return nil, err
	}
	return r.store.HeldHosts(ctx)
}

// wants tells whether there is something to do for a host.
func (r *Reconciler) wants(h db.HeldHost) bool {
	return h.Draining && (h.Holds.Sleeping > 0 || h.Evict && h.Holds.Running > 0) || !h.Draining && h.Quarantine != ""
}

// tend does what a host wants once, and then waits: the longer, the longer it has failed.
func (r *Reconciler) tend(ctx context.Context, h db.HeldHost) {
	do, what := r.probe, "probe"
	if h.Draining {
		do, what = r.drain, "drain"
	}
	err := do(ctx, h)
	if ctx.Err() != nil {
		return
	}
	wait := r.waitAfter(h.ID, err)
	if err == nil {
		return
	}
	r.log.Warn("host not looked after; tried again later", "host_id", h.ID, "step", what, "next_try_in", wait, "error", err)
	pause(ctx, wait)
}

// waitAfter is how long a host is left alone after what was done for it.
func (r *Reconciler) waitAfter(h id.Host, err error) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.waits, h)
		return 0
	}
	r.waits[h] = min(max(r.pace.Tend, 2*r.waits[h]), tendMost)
	return r.waits[h]
}

// drain has what sleeps on a host go into the object store, and where that is wanted what runs sleep.
func (r *Reconciler) drain(ctx context.Context, h db.HeldHost) error {
	rows, err := r.store.RowsForHost(ctx, h.ID, nil)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(leavingAtOnce)
	for _, row := range rows {
		ch := hibernating
		switch {
		case row.State == models.Paused && h.Archive:
		case row.State == models.Running && h.Evict:
			ch = pausing
		default:
			continue
		}
		g.Go(func() error { return r.leave(ctx, h.ID, row.ID, ch) })
	}
	return g.Wait()
}

// leave takes one step of a sandbox away from its host, unless it is elsewhere, or has changed, by then.
func (r *Reconciler) leave(ctx context.Context, h id.Host, sb id.Sandbox, ch change) error {
	row, err := r.store.SandboxOfAny(ctx, sb)
	if err != nil {
		return err
	}
	ch.why = reasonDrained
	ch.still = func(sb models.Sandbox, _ time.Time) bool { return sb.Host == h && sb.State == ch.from[0] }
	by := db.By{Actor: system.Actor, Operation: string(id.NewRequest())}
	_, err = r.c.detached(ctx, ch.op, func(ctx context.Context) (models.Sandbox, error) {
		if ch.op == lifecycle.HibernateOp {
			if err := r.c.storable(ctx, row); err != nil {
				return row, err
			}
		}
		begun, err := r.c.beginChange(ctx, by, row, ch)
		if err != nil {
			return begun, err
		}
		return r.c.onHost(ctx, by, begun, ch)
	})
	if errors.Is(err, db.ErrMoved) {
		return nil
	}
	return err
}
