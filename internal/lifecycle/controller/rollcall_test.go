package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// counted is a store that counts how often it notes that hosts were heard of, and whom.
type counted struct {
	*db.Store
	mu    sync.Mutex
	notes int
	heard []id.Host
}

func (c *counted) HeardOf(ctx context.Context, hosts []id.Host, fresh time.Duration) ([]id.Host, error) {
	c.mu.Lock()
	c.notes++
	c.heard = append(c.heard, hosts...)
	c.mu.Unlock()
	return c.Store.HeardOf(ctx, hosts, fresh)
}

// TestHeartbeatsAreNotedTogether: a hundred hosts whose heartbeats come at the same time cost one statement, each learns whether it is ready, and where the one that began gives
// up the others are noted all the same.
func TestHeartbeatsAreNotedTogether(t *testing.T) {
	r := newRig(t)
	const hosts = 100
	for i := range hosts {
		h := db.Host{ID: name(i), Address: fmt.Sprint("unix:///", i), VCPUs: 1}
		if _, _, err := r.store.RegisterHost(t.Context(), h, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.store.MarkUnreachable(t.Context(), name(1)); err != nil {
		t.Fatal(err)
	}
	store := &counted{Store: r.store}
	calls := rollCall{store: store}
	first, end := context.WithCancel(t.Context())
	waiting := func(n int) func() bool {
		return func() bool {
			calls.mu.Lock()
			defer calls.mu.Unlock()
			return calls.next != nil && len(calls.next.hosts) == n
		}
	}
	var all sync.WaitGroup
	for i := range hosts {
		ctx := t.Context()
		if i == 0 {
			ctx = first
		}
		all.Go(func() {
			ready, err := calls.note(ctx, name(i), time.Hour)
			if i > 0 && (err != nil || ready != (i > 1)) {
				t.Errorf("host %d is ready: %v, %v", i, ready, err)
			}
		})
		if i == 0 {
			r.eventually("the first waits for others", waiting(1))
		}
	}
	r.eventually("all wait", waiting(hosts))
	end() // the first waits no longer
	all.Wait()
	slices.Sort(store.heard)
	if store.notes != 1 || len(slices.Compact(store.heard)) != hosts {
		t.Errorf("%d hosts were noted in %d statements", len(store.heard), store.notes)
	}
}

func name(i int) id.Host { return id.Host(fmt.Sprintf("host-%08d", i)) }

// TestHeartbeats: a host that says the same again and again is heard of all the time, and one that another control plane took for unreachable is ready again.
func TestHeartbeats(t *testing.T) {
	r := newRig(t)
	c := r.boot(r.store, Limits{}, Pace{}, 20*time.Millisecond, r.sim.Address())
	r.eventually("the host is reachable", func() bool { return c.Fleet.Status()[0].Up })
	host := func() db.Host {
		hosts, err := r.store.Hosts(t.Context())
		if err != nil || len(hosts) != 1 {
			t.Fatalf("hosts %+v, %v", hosts, err)
		}
		return hosts[0]
	}
	before := host().LastSeenAt
	r.eventually("it is heard of again", func() bool { return host().LastSeenAt.After(before) })
	if err := r.store.MarkUnreachable(t.Context(), host().ID); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is ready again", func() bool { return host().State() == models.HostReady })
	if n := host().Connects; n != 1 {
		t.Errorf("it has connected %d times", n)
	}
}
