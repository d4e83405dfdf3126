package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Placements share a view of the hosts for sharedFor times as long as it took to read, which is proportional to how many hosts and sandboxes there are, and for viewLife at most.
// Then one of them reads it anew, while the others take what there is. Where that takes longer than quickly it is read for those that come after, unless it is twice as old.
const (
	sharedFor = 20
	viewLife  = 5 * time.Second
	quickly   = 25 * time.Millisecond
)

// usual is what a sandbox counts as in a view that is shared, until what its host holds is read again.
var usual = Use{Sandboxes: 1, VCPUs: 1, MemoryMiB: 512, DiskMiB: 1024}

// hostViews is what placements choose by: what hosts hold, as it was a moment ago. What is chosen by it is looked at again with the host locked.
type hostViews struct {
	pool *dbgen.Queries // by a connection of its own

	mu    sync.Mutex    // guards what follows
	all   []*HostUse    // none of which is written to
	took  time.Duration // to read
	until time.Time     // when it is to be read again; zero before it was read
	old   time.Time     // when it is of no use any more
	notes []hostNote    // since the read began that is under way; nil where none is
	reads int           // under way
}

// hostNote is what has become of a host since its view was read.
type hostNote struct {
	host   id.Host
	change func(HostUse) HostUse
}

// now returns a view that may be kept; the slice may be written to. Many who begin at once see by the notes what the others have chosen.
func (v *hostViews) now(ctx context.Context, q *dbgen.Queries) ([]*HostUse, error) {
	v.mu.Lock()
	now := time.Now()
	switch due := now.After(v.until); {
	case now.After(v.old), due && v.took < quickly:
		if v.all != nil { // the others take what there is meanwhile
			v.until, v.old = now.Add(viewLife), now.Add(viewLife)
		}
		v.mu.Unlock()
		if _, err := v.read(ctx, q); err != nil {
			return nil, err
		}
		v.mu.Lock()
	case due:
		v.until = now.Add(viewLife)
		go v.refresh()
	}
	defer v.mu.Unlock()
	return slices.Clone(v.all), nil
}

// refresh reads the view for whoever comes next, who looks for himself if it fails.
func (v *hostViews) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), statementLimit)
	defer cancel()
	_, _ = v.read(ctx, v.pool)
}

// read reads the view, and returns what was read, without notes.
func (v *hostViews) read(ctx context.Context, q *dbgen.Queries) ([]*HostUse, error) {
	began, noted := v.begin()
	used, err := usedHosts(ctx, q)
	hosts := make([]*HostUse, len(used))
	for i := range used {
		hosts[i] = &used[i]
	}
	v.end(began, noted, hosts, err)
	return hosts, err
}

// begin begins a read, before which as many notes were made as it returns.
func (v *hostViews) begin() (began time.Time, noted int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reads++
	return time.Now(), len(v.notes)
}

// end has hosts be the view, with what was noted since the read began: what was read may not know of it.
func (v *hostViews) end(began time.Time, noted int, hosts []*HostUse, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	notes := v.notes[noted:]
	if v.reads--; v.reads == 0 {
		v.notes = nil
	}
	if err != nil {
		v.until, v.old = began, began
		return
	}
	v.took = time.Since(began)
	life := min(sharedFor*v.took, viewLife)
	v.all, v.until, v.old = slices.Clone(hosts), began.Add(life), began.Add(2*life)
	for _, n := range notes {
		v.apply(n)
	}
}

// note has a host look as it was found to be, or with one more sandbox where that is not known yet.
func (v *hostViews) note(h id.Host, change func(HostUse) HostUse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := hostNote{h, change}
	if v.reads > 0 {
		v.notes = append(v.notes, n)
	}
	v.apply(n)
}

// apply changes the view. The caller holds mu.
func (v *hostViews) apply(n hostNote) {
	for i := range v.all {
		if v.all[i].ID == n.host {
			changed := n.change(*v.all[i])
			v.all[i] = &changed
		}
	}
}

// errPassed means that a host which was chosen is not as it looked: another transaction chooses anew.
var errPassed = errors.New("the host is not as it looked")

// placing is one placement, by as many transactions as it takes. Each locks one host only, which is why none waits for another in a circle.
type placing struct {
	views *hostViews
	hosts []*HostUse // by which it chooses; nil before the first
	fresh bool       // they were read for this placement
}

// placing runs do in a transaction, in which it may choose a host; again, while that is not as it looked.
func (s *Store) placing(ctx context.Context, do func(q *dbgen.Queries, p *placing) error) error {
	p := &placing{views: &s.hosts}
	for {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return do(s.q.WithTx(tx), p) })
		if !errors.Is(err, errPassed) {
			return err
		}
	}
}

// reserveFunc chooses a place which nobody else takes before the end of the transaction.
type reserveFunc func(ctx context.Context, q *dbgen.Queries) (Placement, error)

func (p *placing) placeFunc(place PlaceFunc) reserveFunc {
	return func(ctx context.Context, q *dbgen.Queries) (where Placement, err error) {
		_, err = p.choose(ctx, q, func(hosts []*HostUse) (id.Host, error) {
			where, err = place(hosts)
			return where.Host, err
		})
		return where, err
	}
}

// choose has place choose a host, and look at it again with no other placement there before the end of the transaction.
func (p *placing) choose(ctx context.Context, q *dbgen.Queries, place HostFunc) (id.Host, error) {
	host, err := p.pick(ctx, q, place)
	if err != nil {
		return "", err
	}
	p.views.note(host, func(h HostUse) HostUse {
		h.Use = Use{h.Use.Sandboxes + usual.Sandboxes, h.Use.VCPUs + usual.VCPUs, h.Use.MemoryMiB + usual.MemoryMiB, h.Use.DiskMiB + usual.DiskMiB}
		return h
	})
	found, err := lockedHost(ctx, q, host)
	if errors.Is(err, pgx.ErrNoRows) { // it was removed
		p.hosts = slices.DeleteFunc(p.hosts, func(h *HostUse) bool { return h.ID == host })
		return "", errPassed
	}
	if err != nil {
		return "", err
	}
	if again, err := place([]*HostUse{&found}); err == nil && again == host {
		return host, nil
	}
	p.views.note(host, func(HostUse) HostUse { return found })
	for i := range p.hosts {
		if p.hosts[i].ID == host {
			p.hosts[i] = &found
		}
	}
	return "", errPassed
}

// pick chooses by what is known. That there is no place is not said of what is not fresh.
func (p *placing) pick(ctx context.Context, q *dbgen.Queries, place HostFunc) (host id.Host, err error) {
	if p.hosts == nil {
		if p.hosts, err = p.views.now(ctx, q); err != nil {
			return "", err
		}
	}
	if host, err = place(p.hosts); err == nil || p.fresh {
		return host, err
	}
	if p.hosts, err = p.views.read(ctx, q); err != nil {
		return "", err
	}
	p.fresh = true
	return place(p.hosts)
}

// lockedHost keeps other placements out of a host until the transaction ends.
func lockedHost(ctx context.Context, q *dbgen.Queries, h id.Host) (HostUse, error) {
	row, err := q.LockHost(ctx, string(h))
	if err != nil {
		return HostUse{}, fmt.Errorf("lock host %s: %w", h, err)
	}
	taken, err := q.AllotmentsOf(ctx, string(h))
	if err != nil {
		return HostUse{}, fmt.Errorf("sum what sandboxes take of host %s: %w", h, err)
	}
	use := HostUse{Use: Use{Sandboxes: taken.Sandboxes, VCPUs: taken.VCPUs, MemoryMiB: taken.MemoryMiB, DiskMiB: taken.DiskMiB}}
	use.Host, err = host(row)
	return use, err
}
