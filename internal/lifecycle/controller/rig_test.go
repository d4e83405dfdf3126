package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

// patienceOfTests is how long a test waits for what must happen.
const patienceOfTests = time.Minute

// rig is a database with an account, and a simulated host.
type rig struct {
	t     *testing.T
	url   string
	store *db.Store
	sim   *hostsim.Host
	by    By
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, url: stacktest.ForTest(t).PostgresURL, sim: hostsim.Start(t)}
	if _, err := db.MigrateUp(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.store, err = db.Open(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.store.Close)
	account, err := r.store.Account(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	r.by = By{Account: account, Key: "key-00000001", Request: "req-1"}
	return r
}

// replica is one control plane without its API.
type replica struct {
	*Controller
	end func()
}

// quick makes a reconciler fast enough for tests, and has it find by itself only what has changed or is on its way.
var quick = Pace{Tick: 20 * time.Millisecond, Full: time.Hour, Settle: 200 * time.Millisecond, Grace: 200 * time.Millisecond, Snapshots: 20 * time.Millisecond, Tend: 20 * time.Millisecond}

// start runs a replica until end is called or the test ends, and waits until it knows its host.
func (r *rig) start(store Store, limits Limits, pace Pace) *replica {
	r.t.Helper()
	return r.startWith(store, limits, pace, r.sim.Address())
}

// startWith is start with other hosts, of which the first is waited for.
func (r *rig) startWith(store Store, limits Limits, pace Pace, hosts ...string) *replica {
	r.t.Helper()
	c := r.boot(store, limits, pace, heartbeat, hosts...)
	r.eventually("the host is reachable", func() bool { return c.Fleet.Status()[0].Up })
	return c
}

func (r *rig) boot(store Store, limits Limits, pace Pace, beats time.Duration, hosts ...string) *replica {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("TEST_LOG") != "" {
		log = slog.Default()
	}
	fleet, err := NewFleet(hosts, r.store, log)
	if err != nil {
		r.t.Fatal(err)
	}
	fleet.beats = beats
	for _, h := range fleet.hosts {
		h.beats = beats
	}
	c := New(Options{Store: store, Fleet: fleet, Log: log, Limits: limits})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { fleet.Run(ctx) })
	if pace != (Pace{}) {
		wg.Go(func() { NewReconciler(c, r.store, pace).Run(ctx) })
	}
	end := sync.OnceFunc(func() {
		now, stop := context.WithCancel(ctx)
		stop()
		c.Close(now)
		cancel()
		wg.Wait()
	})
	r.t.Cleanup(end)
	return &replica{Controller: c, end: end}
}

// request is a new request of the rig's user.
func (r *rig) request() By {
	by := r.by
	by.Request = id.NewRequest()
	return by
}

func (r *rig) create(c *replica) models.Sandbox {
	r.t.Helper()
	sb, err := c.Create(r.t.Context(), r.request(), Request{Template: "minimal"})
	if err != nil {
		r.t.Fatal(err)
	}
	return sb
}

// only returns the one sandbox that there is.
func (r *rig) only() models.Sandbox {
	r.t.Helper()
	all, err := r.store.List(r.t.Context(), db.Filter{Account: r.by.Account, Limit: 10, States: []models.State{
		models.Pending, models.Starting, models.Running, models.Stopping, models.Stopped, models.Failed}})
	if err != nil {
		r.t.Fatal(err)
	}
	if len(all) != 1 {
		r.t.Fatalf("%d sandboxes, want 1: %+v", len(all), all)
	}
	return all[0]
}

// becomes waits until the sandbox is in a state.
func (r *rig) becomes(sb id.Sandbox, want models.State) models.Sandbox {
	r.t.Helper()
	var now models.Sandbox
	r.eventually(fmt.Sprintf("%s is %s", sb, want), func() bool {
		var err error
		now, err = r.store.Sandbox(r.t.Context(), r.by.Account, sb)
		return err == nil && now.State == want
	})
	return now
}

// in returns the one sandbox that is in a state.
func (r *rig) in(state models.State) models.Sandbox {
	r.t.Helper()
	all, err := r.store.List(r.t.Context(), db.Filter{Account: r.by.Account, Limit: 10, States: []models.State{state}})
	if err != nil || len(all) != 1 {
		r.t.Fatalf("%d sandboxes are %s, want 1: %v", len(all), state, err)
	}
	return all[0]
}

// holds waits until the host holds n sandboxes.
func (r *rig) holds(n int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("the host holds %d sandboxes", n), func() bool {
		_, _, got := r.sim.Counts()
		return got == n
	})
}

func (r *rig) eventually(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patienceOfTests); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("it never came true that %s", what)
		}
	}
}

// path asserts the states that a sandbox went through.
func (r *rig) path(sb id.Sandbox, want ...models.State) {
	r.t.Helper()
	events, err := r.store.Events(r.t.Context(), sb, 0, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	var got []models.State
	for i, e := range events {
		got = append(got, e.To)
		if i > 0 && e.From != events[i-1].To {
			r.t.Errorf("event %d comes from %s after %s", i, e.From, events[i-1].To)
		}
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("%s went through %v, want %v", sb, got, want)
	}
}

var errDead = errors.New("this control plane was killed")

// mortal is a store of a control plane that dies at a chosen call: from then on nothing that it does
// reaches the database.
type mortal struct {
	*db.Store
	diesBefore, diesAfter string
	dead                  atomic.Bool
}

func (m *mortal) step(name string, do func() (models.Sandbox, error)) (models.Sandbox, error) {
	if m.diesBefore == name {
		m.dead.Store(true)
	}
	if m.dead.Load() {
		return models.Sandbox{}, errDead
	}
	sb, err := do()
	if m.diesAfter == name {
		m.dead.Store(true)
	}
	if m.dead.Load() {
		return models.Sandbox{}, errDead
	}
	return sb, err
}

func (m *mortal) CreateSandbox(ctx context.Context, n db.NewSandbox, place db.PlaceFunc) (models.Sandbox, error) {
	return m.step("insert", func() (models.Sandbox, error) { return m.Store.CreateSandbox(ctx, n, place) })
}

func (m *mortal) CreateForks(ctx context.Context, all []db.NewSandbox, place db.PlaceFunc) (made []models.Sandbox, err error) {
	_, err = m.step("insert", func() (models.Sandbox, error) {
		made, err = m.Store.CreateForks(ctx, all, place)
		return models.Sandbox{}, err
	})
	return made, err
}

func (m *mortal) Transition(ctx context.Context, c db.Change) (models.Sandbox, error) {
	return m.step(string(c.To), func() (models.Sandbox, error) { return m.Store.Transition(ctx, c) })
}

func (m *mortal) TransitionIfRoom(ctx context.Context, c db.Change, fit db.FitFunc) (models.Sandbox, error) {
	return m.step(string(c.To), func() (models.Sandbox, error) { return m.Store.TransitionIfRoom(ctx, c, fit) })
}

func (m *mortal) TransitionIf(ctx context.Context, c db.Change, still db.StillFunc) (models.Sandbox, error) {
	return m.step(string(c.To), func() (models.Sandbox, error) { return m.Store.TransitionIf(ctx, c, still) })
}

func (m *mortal) TransitionPlaced(ctx context.Context, c db.Change, place db.HostFunc) (models.Sandbox, error) {
	return m.step(string(c.To), func() (models.Sandbox, error) { return m.Store.TransitionPlaced(ctx, c, place) })
}

func (m *mortal) Move(ctx context.Context, c db.Change, from id.Host, place db.HostFunc) (models.Sandbox, error) {
	return m.step("move", func() (models.Sandbox, error) { return m.Store.Move(ctx, c, from, place) })
}

// sql runs a statement past the store.
func (r *rig) sql(statement string) {
	r.t.Helper()
	r.connected(func(conn *pgx.Conn) error {
		_, err := conn.Exec(r.t.Context(), statement)
		return err
	})
}

// query reads one value past the store.
func (r *rig) query(into any, statement string) {
	r.t.Helper()
	r.connected(func(conn *pgx.Conn) error { return conn.QueryRow(r.t.Context(), statement).Scan(into) })
}

func (r *rig) connected(do func(*pgx.Conn) error) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := do(conn); err != nil {
		r.t.Fatal(err)
	}
}
