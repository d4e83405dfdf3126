package lifetest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/api"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/eventfeed"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/lifetest/invariant"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const (
	hosts, replicas = 3, 2
	// roomOfHost is for how many sandboxes of 256 MiB a host has memory: fewer than are asked for.
	roomOfHost = 5
	// soon is within what an operation must have come to its end; it may come later, then it is not known how it ended.
	soon = 3 * time.Second
)

// quick makes what happens in the background fast enough for a test.
var quick = controller.Pace{
	Tick: 20 * time.Millisecond, Full: time.Hour, Settle: 300 * time.Millisecond, Grace: 300 * time.Millisecond, Snapshots: 50 * time.Millisecond, Tend: 50 * time.Millisecond,
}

// world is a whole deployment: databases, hosts and replicas.
type world struct {
	t      testing.TB
	dbs    stacktest.Databases
	store  *db.Store // past the proxies: what is true
	pool   *pgxpool.Pool
	tables invariant.Tables // of both
	hosts  []*hostsim.Host
	wg     sync.WaitGroup // of replicas that were killed

	faults  sync.WaitGroup // those that end by themselves
	drained atomic.Bool    // a host was, in this round
	evicted atomic.Bool    // what ran there was put to sleep

	mu       sync.Mutex // guards what follows
	replicas []*replica
	down     []bool // hosts whose agent does not run
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dbs: stacktest.ForTest(t), down: make([]bool, hosts)}
	if _, err := db.MigrateUp(t.Context(), w.dbs.PostgresURL); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.store, err = db.Open(t.Context(), w.dbs.PostgresURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	if w.pool, err = pgxpool.New(t.Context(), w.dbs.PostgresURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	w.tables = invariant.Tables{Pool: w.pool, Store: w.store}
	if err := w.tables.NotePlacements(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for i := range hosts {
		h := hostsim.Start(t)
		if i > 0 {
			h.Share(w.hosts[0])
		}
		h.Describe(func(info *pb.GetHostInfoResponse) { info.HostId, info.MemoryMib = string(hostID(i)), 256*roomOfHost })
		hinder(h)
		w.hosts = append(w.hosts, h)
	}
	t.Cleanup(w.wg.Wait)
	for range replicas {
		w.replicas = append(w.replicas, w.boot())
	}
	t.Cleanup(func() {
		for i := range replicas {
			w.kill(i)
		}
	})
	w.awaitHosts()
	return w
}

// awaitHosts returns once all hosts are known.
func (w *world) awaitHosts() {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		known, err := w.store.Hosts(w.t.Context())
		if err == nil && len(known) == hosts {
			return
		}
		if time.Since(began) > patience {
			w.t.Fatalf("%d of %d hosts are known, %v", len(known), hosts, err)
		}
	}
}

func hostID(i int) id.Host { return id.Host(fmt.Sprintf("host-%08x", i+1)) }

// replica is a control plane with its own ways to the databases.
type replica struct {
	postgres, redis *proxy
	store           *db.Store
	cache           *auth.Cache
	auth            *auth.Authenticator
	ctl             *controller.Controller
	handler         http.Handler
	cancel          context.CancelFunc
	wg              sync.WaitGroup
}

func (w *world) boot() *replica {
	w.t.Helper()
	r := &replica{postgres: newProxy(w.t, w.postgresSocket()), redis: newProxy(w.t, w.redisURL().Path)}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("TEST_LOG") != "" {
		log = slog.Default()
	}
	var err error
	if r.store, err = db.Open(context.Background(), w.postgresVia(r.postgres)); err != nil {
		w.t.Fatal(err)
	}
	if r.cache, err = auth.OpenCache(fmt.Sprintf("redis://%s/%s", r.redis.address(), w.redisURL().Query().Get("db")), log); err != nil {
		w.t.Fatal(err)
	}
	addresses := make([]string, hosts)
	for i, h := range w.hosts {
		addresses[i] = h.Address()
	}
	fleet, err := controller.NewFleet(addresses, r.store, log)
	if err != nil {
		w.t.Fatal(err)
	}
	feed := eventfeed.New(r.store, r.cache, log)
	r.store.WhenEvents(feed.Notify)
	r.auth = auth.New(r.store, r.cache, log)
	r.ctl = controller.New(controller.Options{Store: r.store, Fleet: fleet, Log: log, Limits: controller.Limits{Create: soon, Sleep: soon, Archive: soon, Wake: soon, Destroy: soon}})
	r.handler = api.New(api.Options{
		Store: r.store, Auth: r.auth, Controller: r.ctl, Redis: r.cache, Feed: feed, Log: log, Limits: api.Limits{ClaimLease: soon / 3, ClaimWait: soon},
	}).Handler()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.wg.Go(func() { fleet.Run(ctx) })
	r.wg.Go(func() { controller.KeepAlive(ctx, r.store, log) })
	r.wg.Go(func() { feed.Run(ctx) })
	r.wg.Go(func() { controller.NewReconciler(r.ctl, r.store, quick).Run(ctx) })
	r.wg.Go(func() { controller.NewKeeper(r.ctl, r.store, 50*time.Millisecond).Run(ctx) })
	return r
}

func (w *world) redisURL() *url.URL {
	u, err := url.Parse(w.dbs.RedisURL)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) postgresURL() *url.URL {
	u, err := url.Parse(w.dbs.PostgresURL)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) postgresSocket() string {
	return filepath.Join(w.postgresURL().Query().Get("host"), ".s.PGSQL.5432")
}

// postgresVia names the database as it is reached through a proxy.
func (w *world) postgresVia(p *proxy) string {
	u := w.postgresURL()
	u.Host, u.RawQuery = p.address(), url.Values{"sslmode": {"disable"}}.Encode()
	return u.String()
}

func (w *world) replica(i int) *replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.replicas[i%replicas]
}

// kill ends a replica as kill -9 does, as far as others see: from now on nothing of what it does reaches a database.
func (w *world) kill(i int) {
	r := w.replica(i)
	r.postgres.cut()
	r.redis.cut()
	r.cancel()
	w.wg.Go(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		r.ctl.Close(ended)
		r.wg.Wait()
		r.auth.Close()
		_ = r.cache.Close() // it is cut off already
		r.store.Close()
		r.postgres.close()
		r.redis.close()
	})
}

// replace kills a replica and starts another one.
func (w *world) replace(i int) {
	w.kill(i)
	next := w.boot()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replicas[i%replicas] = next
}

// stopHost kills a host's agent, if it runs.
func (w *world) stopHost(i int) { w.turn(i, true) }

func (w *world) startHost(i int) { w.turn(i, false) }

func (w *world) turn(i int, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[i%hosts] == down {
		return
	}
	w.down[i%hosts] = down
	if down {
		w.hosts[i%hosts].Kill()
	} else {
		w.hosts[i%hosts].Restart()
	}
}

// heal ends all faults.
func (w *world) heal(ctx context.Context) {
	for i := range hosts {
		w.startHost(i)
		if err := w.store.SetDraining(ctx, hostID(i), operator, false, false); err != nil {
			w.t.Errorf("undrain: %v", err)
		}
	}
	for i := range replicas {
		w.replica(i).postgres.mend()
		w.replica(i).redis.mend()
	}
}
