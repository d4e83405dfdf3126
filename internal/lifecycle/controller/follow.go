package controller

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// keepUpPause is the least time between two looks at what is on its way.
const keepUpPause = 100 * time.Millisecond

// follower compares one host with its rows: all of it now and then, and in between what has changed or is on its way. Why so: docs/adr/0031-what-is-compared.md.
type follower struct {
	r    *Reconciler
	h    *host
	work chan errand

	mu    sync.Mutex // guards tries
	tries map[id.Sandbox]attempt
}

// errand is what a follower is to compare.
type errand struct {
	all   bool         // that the host holds, and that it should
	named []id.Sandbox // else these, and those of rows
	rows  []db.Row     // as they are for those that have one
}

type attempt struct {
	wait time.Duration
	next time.Time
}

// followNew begins to reconcile the hosts of the fleet that are not followed yet. What is done for a host ends with ctx, and when it leaves the fleet.
func (r *Reconciler) followNew(ctx context.Context, wg *sync.WaitGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.c.Fleet.all() {
		if r.followers[h] != nil {
			continue
		}
		f := &follower{r: r, h: h, work: make(chan errand), tries: map[id.Sandbox]attempt{}}
		r.followers[h] = f
		until := func(do func(context.Context)) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(h.life, cancel)()
			do(ctx)
		}
		wg.Go(func() {
			until(f.run)
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.followers, h)
		})
		wg.Go(func() { until(func(ctx context.Context) { r.keepSnapshots(ctx, h) }) })
	}
}

// following lists the followers that there are.
func (r *Reconciler) following() []*follower {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.followers))
}

// keepUp has followers compare what has changed or is on its way, until ctx ends.
func (r *Reconciler) keepUp(ctx context.Context) {
	for ctx.Err() == nil {
		r.handOut(ctx)
		t := time.NewTimer(r.pace.Tick)
		select {
		case <-r.c.Fleet.wake:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		pause(ctx, min(keepUpPause, r.pace.Tick))
	}
}

// handOut reads the rows of all that is to be compared, of all hosts in one statement, and hands them to the hosts' followers. What one that is busy is not given is tried again.
func (r *Reconciler) handOut(ctx context.Context) {
	followers := r.following()
	errands, named := make([]errand, len(followers)), []id.Sandbox{}
	for i, f := range followers {
		errands[i] = f.h.takeNews()
		named = append(named, errands[i].named...)
	}
	rows, err := r.store.Unsettled(ctx, named)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("hosts not reconciled", "error", err)
	}
	byID, byHost := map[id.Sandbox]db.Row{}, map[id.Host][]db.Row{}
	for _, row := range rows {
		byID[row.ID] = row
		byHost[row.Host] = append(byHost[row.Host], row)
	}
	for i, f := range followers {
		e := errands[i]
		known := f.h.known()
		for _, sb := range e.named {
			if row, ok := byID[sb]; ok && row.Host != known { // those that it should hold are among the host's
				e.rows = append(e.rows, row)
			}
		}
		e.rows = append(e.rows, byHost[known]...)
		if err != nil || !f.offer(e) {
			f.h.addNews(e)
		}
	}
}

// offer gives the follower what it is to compare, unless it is busy.
func (f *follower) offer(e errand) bool {
	if !e.all && len(e.named)+len(e.rows) == 0 {
		return true
	}
	select {
	case f.work <- e:
		return true
	default:
		return false
	}
}

func (f *follower) run(ctx context.Context) {
	f.h.heed(true)
	defer f.h.heed(false)
	f.whole(ctx)
	full := time.NewTimer(time.Duration((0.5 + rand.Float64()/2) * float64(f.r.pace.Full))) // not all hosts at once
	defer full.Stop()
	for {
		select {
		case e := <-f.work:
			if e.all {
				f.whole(ctx)
			} else {
				f.some(ctx, e)
			}
		case <-full.C:
			f.whole(ctx)
			full.Reset(f.r.pace.Full)
		case <-ctx.Done():
			return
		}
	}
}

// whole closes the gaps of the host, unless it is not known what it holds.
func (f *follower) whole(ctx context.Context) {
	f.h.takeNews()
	known, seen, ok := f.h.view()
	if !ok {
		return
	}
	rows, err := f.r.store.RowsForHost(ctx, known, slices.Collect(maps.Keys(seen)))
	if err != nil {
		f.h.addNews(errand{all: true})
		if ctx.Err() == nil {
			f.r.log.Warn("host not reconciled", "host_id", known, "error", err)
		}
		return
	}
	f.compare(ctx, known, rows, seen, func(id.Sandbox) bool { return true })
}

// some closes the gaps of the sandboxes of an errand.
func (f *follower) some(ctx context.Context, e errand) {
	looked := map[id.Sandbox]bool{}
	for _, sb := range e.named {
		looked[sb] = true
	}
	for _, row := range e.rows {
		looked[row.ID] = true
	}
	known, seen, ok := f.h.view()
	if !ok {
		return // all of it is news when it is known again
	}
	maps.DeleteFunc(seen, func(sb id.Sandbox, _ sighting) bool { return !looked[sb] })
	f.compare(ctx, known, e.rows, seen, func(sb id.Sandbox) bool { return looked[sb] })
}

// compare closes the gaps between rows and what the host was seen to hold, and has looked at again what does not agree yet.
func (f *follower) compare(ctx context.Context, known id.Host, rows []db.Row, seen map[id.Sandbox]sighting, looked func(id.Sandbox) bool) {
	f.r.leaveProbes(seen)
	f.h.addNews(errand{named: unsettled(known, rows, seen)})
	var g errgroup.Group
	g.SetLimit(remediesAtOnce)
	gaps := plan(known, rows, seen, time.Now(), patience{settle: f.r.pace.Settle, grace: f.r.pace.Grace})
	for _, gap := range f.due(gaps, looked) {
		g.Go(func() error {
			f.outcome(ctx, gap, f.r.close(ctx, f.h.client, known, gap))
			return nil
		})
	}
	_ = g.Wait() // never fails
}

// unsettled lists the sandboxes whose rows do not say yet what host h holds, whether that is a gap or will pass.
func unsettled(h id.Host, rows []db.Row, seen map[id.Sandbox]sighting) (list []id.Sandbox) {
	known := map[id.Sandbox]bool{}
	for _, row := range rows {
		known[row.ID] = true
		if s, here := seen[row.ID]; !agree(h, row, s, here) {
			list = append(list, row.ID)
		}
	}
	for sb := range seen {
		if !known[sb] {
			list = append(list, sb)
		}
	}
	return list
}

func agree(h id.Host, row db.Row, s sighting, here bool) bool {
	if row.Host != h {
		return !here
	}
	switch row.State {
	case models.Running:
		return here && s.State == hostclient.Running && s.NetworkGeneration >= row.NetworkGeneration
	case models.Paused:
		return here && s.State == hostclient.Paused && s.NetworkGeneration >= row.NetworkGeneration && s.Damage == row.Damage && sameMoment(s.Verified, row.Verified)
	case models.Failed:
		return !here || s.State != hostclient.Running && s.State != hostclient.Starting
	case models.Stopped, models.Hibernated:
		return !here
	default: // on its way
		return false
	}
}

// due leaves out what failed a short while ago, and forgets failures of gaps that were looked for and are no more.
func (f *follower) due(gaps []gap, looked func(id.Sandbox) bool) (out []gap) {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := map[id.Sandbox]bool{}
	for _, g := range gaps {
		open[g.id] = true
		if a, failed := f.tries[g.id]; !failed || !time.Now().Before(a.next) {
			out = append(out, g)
		}
	}
	maps.DeleteFunc(f.tries, func(sb id.Sandbox, _ attempt) bool { return looked(sb) && !open[sb] })
	return out
}

func (f *follower) outcome(ctx context.Context, g gap, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil || errors.Is(err, db.ErrMoved) {
		delete(f.tries, g.id)
		return
	}
	if ctx.Err() != nil {
		return
	}
	wait := min(max(retryFirst, 2*f.tries[g.id].wait), retryMost)
	f.tries[g.id] = attempt{wait: wait, next: time.Now().Add(wait)}
	f.r.log.Warn("gap not closed", "sandbox_id", g.id, "remedy", string(g.remedy), "next_try_in", wait, "error", err)
}

// heed has news of the host kept from now on, or no more.
func (h *host) heed(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.news, h.anew = nil, false
	if on {
		h.news = map[id.Sandbox]bool{}
	}
}

// takeNews returns what is to be compared, and forgets it.
func (h *host) takeNews() errand {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := errand{all: h.anew, named: slices.Collect(maps.Keys(h.news))}
	clear(h.news)
	h.anew = false
	return e
}

// addNews has it compared, or compared again.
func (h *host) addNews(e errand) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.news == nil {
		return
	}
	h.anew = h.anew || e.all
	for _, sb := range e.named {
		h.news[sb] = true
	}
}
