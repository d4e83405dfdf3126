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
// Then one of them has it read anew, for those that come after; only where it is older than viewOld does it wait for that.
const (
	sharedFor = 20
	viewLife  = 5 * time.Second
	viewOld   = 2 * viewLife
)

// usual is what a sandbox counts as in a view that is shared, until what its host holds is read again.
var usual = Use{Sandboxes: 1, VCPUs: 1, MemoryMiB: 512, DiskMiB: 1024}

// hostViews is what placements choose by: what hosts hold, as it was a moment ago. What is chosen by it is looked at again with the host locked.
type hostViews struct {
	pool *dbgen.Queries // by a connection of its own

	mu    sync.Mutex // guards what follows
	all   []HostUse
	began time.Time // when it was read; zero before
	until time.Time // when it is to be read again
}

// now returns a view that may be kept and written to.
func (v *hostViews) now(ctx context.Context, q *dbgen.Queries) (hosts []HostUse, fresh bool, err error) {
	v.mu.Lock()
	if time.Since(v.began) > viewOld {
		v.mu.Unlock()
		hosts, err = v.read(ctx, q)
		return hosts, true, err
	}
	defer v.mu.Unlock()
	if time.Now().After(v.until) {
		v.until = time.Now().Add(viewLife) // the others take what there is meanwhile
		go v.refresh()
	}
	return slices.Clone(v.all), false, nil
}

// refresh reads the view for whoever comes next, who looks for himself if it fails.
func (v *hostViews) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), statementLimit)
	defer cancel()
	_, _ = v.read(ctx, v.pool)
}

func (v *hostViews) read(ctx context.Context, q *dbgen.Queries) ([]HostUse, error) {
	began := time.Now()
	hosts, err := usedHosts(ctx, q)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.until = began
		return nil, err
	}
	v.all, v.began, v.until = slices.Clone(hosts), began, began.Add(min(sharedFor*time.Since(began), viewLife))
	return hosts, nil
}

// note has a host look as it was found to be, or with one more sandbox where that is not known yet.
func (v *hostViews) note(h id.Host, change func(HostUse) HostUse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.all {
		if v.all[i].ID == h {
			v.all[i] = change(v.all[i])
		}
	}
}

// errPassed means that a host which was chosen is not as it looked: another transaction chooses anew.
var errPassed = errors.New("the host is not as it looked")

// placing is one placement, by as many transactions as it takes. Each locks one host only, which is why none waits for another in a circle.
type placing struct {
	views *hostViews
	hosts []HostUse // by which it chooses; nil before the first
	fresh bool      // they were read for this placement
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
		_, err = p.choose(ctx, q, func(hosts []HostUse) (id.Host, error) {
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
		p.hosts = slices.DeleteFunc(p.hosts, func(h HostUse) bool { return h.ID == host })
		return "", errPassed
	}
	if err != nil {
		return "", err
	}
	if again, err := place([]HostUse{found}); err == nil && again == host {
		return host, nil
	}
	p.views.note(host, func(HostUse) HostUse { return found })
	for i := range p.hosts {
		if p.hosts[i].ID == host {
			p.hosts[i] = found
		}
	}
	return "", errPassed
}

// pick chooses by what is known. That there is no place is not said of what is not fresh.
func (p *placing) pick(ctx context.Context, q *dbgen.Queries, place HostFunc) (host id.Host, err error) {
	if p.hosts == nil {
		if p.hosts, p.fresh, err = p.views.now(ctx, q); err != nil {
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
