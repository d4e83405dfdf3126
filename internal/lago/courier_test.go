package lago

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

var codes = map[usage.Metric]string{usage.VCPU: "vcpu", usage.Memory: "memory", usage.Stored: "stored"}

// rig is a database with an account, and a stand-in of Lago.
type rig struct {
	t       *testing.T
	store   *db.Store
	conn    *pgx.Conn
	lago    *standIn
	account id.Account
}

func newRig(t *testing.T) *rig {
	t.Helper()
	url := stacktest.ForTest(t).PostgresURL
	if _, err := db.MigrateUp(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	store, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r := &rig{t: t, store: store, lago: newStandIn(t)}
	if r.account, err = store.Account(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if r.conn, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close(context.Background()) })
	return r
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.conn.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// lives writes the usage of n sandboxes that ran, slept, and run again for 100 minutes.
func (r *rig) lives(n int) {
	r.t.Helper()
	for i := range n {
		sb := fmt.Sprintf("sb-%08x", i+1)
		r.exec(`INSERT INTO sandboxes (id, account_id, name, template, vcpus, memory_mib, disk_mib, metadata, state, generation, reason, operation)
			VALUES ($1, $2, '', 'minimal', 3, 500, 777, '{}', 'running', 1, '', '')`, sb, string(r.account))
		r.exec(`INSERT INTO usage_periods (account_id, sandbox_id, kind, vcpus, memory_mib, stored_mib, begun_at, ended_at)
			SELECT $2, $1, p.kind, p.vcpus, p.memory_mib, p.stored_mib, now() - p.since, now() - p.until FROM (VALUES
				('running', 3, 500, 0, interval '5 hours 7.000003 seconds', interval '3 hours 1 second'), ('paused', 0, 0, 1277, interval '3 hours 1 second', interval '100 minutes'),
				('running', 3, 500, 0, interval '100 minutes', NULL)) AS p (kind, vcpus, memory_mib, stored_mib, since, until)`, sb, string(r.account))
	}
}

// end ends what lasts, at a time that has passed.
func (r *rig) end() {
	r.t.Helper()
	r.exec("UPDATE usage_periods SET ended_at = greatest(cut_at, now() - interval '7 seconds') WHERE ended_at IS NULL")
}

// owed is what the periods say, in the form of standIn.sums: each period rounded down by itself.
func (r *rig) owed() map[string]string {
	r.t.Helper()
	var sum struct{ vcpu, memory, stored usage.Decimal }
	add := func(d *usage.Decimal, e usage.Decimal) {
		d.Whole, d.Nanos = d.Whole+e.Whole+(d.Nanos+e.Nanos)/1e9, (d.Nanos+e.Nanos)%1e9
	}
	err := r.store.UsagePeriods(r.t.Context(), r.account, time.Time{}, time.Now(), func() func(usage.Period) {
		return func(p usage.Period) {
			a := p.In(p.Begin, p.End)
			add(&sum.vcpu, a.VCPU.Per(usage.UnitSeconds))
			add(&sum.memory, a.Memory.Per(usage.GiBSeconds))
			add(&sum.stored, a.Paused.Per(usage.GiBHours))
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	owed := map[string]string{}
	for code, d := range map[string]usage.Decimal{"vcpu": sum.vcpu, "memory": sum.memory, "stored": sum.stored} {
		owed[string(r.account)+" "+code] = fmt.Sprintf("%d.%09d", d.Whole, d.Nanos)
	}
	return owed
}

// fast is a pace for tests.
var fast = Pace{Tick: 5 * time.Millisecond, Claim: 300 * time.Millisecond, Retry: 5 * time.Millisecond}

func (r *rig) courier(store Store) *Courier {
	return NewCourier(store, NewClient(Options{URL: r.lago.url + "/", Key: standInKey, Codes: codes}), fast, slog.New(slog.DiscardHandler))
}

// start runs couriers until the test ends, or the function that it returns is called.
func (r *rig) start(couriers ...*Courier) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	for _, c := range couriers {
		wg.Go(func() { c.Run(ctx) })
	}
	stop = func() { cancel(); wg.Wait() }
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) counts() map[db.UsageState]int64 {
	r.t.Helper()
	counts, err := r.store.CountUsage(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	all := map[db.UsageState]int64{}
	for _, c := range counts {
		all[c.State] = c.Number
	}
	return all
}

// settled waits until all that is due is cut, and nothing is pending any more.
func (r *rig) settled() {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var uncut int
		if err := r.conn.QueryRow(r.t.Context(), "SELECT count(*) FROM usage_periods WHERE ended_at IS NOT NULL AND cut_at IS DISTINCT FROM ended_at").Scan(&uncut); err != nil {
			r.t.Fatal(err)
		}
		counts := r.counts()
		if uncut == 0 && counts[db.UsagePending] == 0 && len(counts) > 0 {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("not settled: %d periods are not cut, and of events there are %v", uncut, counts)
		}
	}
}

func (r *rig) paid() {
	r.t.Helper()
	if diff := cmp.Diff(r.owed(), r.lago.sums()); diff != "" {
		r.t.Errorf("what was used, and what Lago has:\n%s", diff)
	}
}

// TestDelivery: with several replicas, an API that fails, breaks off before and after it has stored what it was sent, and knows what it has, each unit that was used arrives once. It does with a Lago
// that stores nothing of a batch that it refuses, with one that stores the good events of it, and with one that does not say which are the bad ones.
func TestDelivery(t *testing.T) {
	for name, set := range map[string]func(*standIn){"whole or not": func(*standIn) {}, "storer": func(s *standIn) { s.storer = true }, "blunt": func(s *standIn) { s.blunt = true }} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			set(r.lago)
			sandboxes := 50
			if r.lago.blunt { // each event of a batch is sent by itself
				sandboxes = 4
			}
			r.lives(sandboxes)
			r.lago.random = rand.New(rand.NewPCG(1, 2))
			stop := r.start(r.courier(r.store), r.courier(r.store), r.courier(r.store))
			r.settled()
			stop() // some have their hands full, perhaps
			r.end()
			r.start(r.courier(r.store), r.courier(r.store))
			r.settled()
			r.paid()
			events, calls, known := r.lago.has()
			if known == 0 {
				t.Errorf("in %d calls nothing was sent again: the test shows nothing", calls)
			}
			for _, e := range events {
				if at := time.Unix(e.Timestamp, 0); at.Before(time.Now().Add(-6*time.Hour)) || at.After(time.Now()) || e.Properties["sandbox_id"] == "" || e.Properties["kind"] == "" {
					t.Errorf("%+v", e)
				}
			}
			if counts := r.counts(); int(counts[db.UsageDelivered]) != len(events) || counts[db.UsageRefused] != 0 {
				t.Errorf("Lago has %d, and the outbox %v", len(events), counts)
			}
		})
	}
}

// dying is the store of a replica that dies where it would note what has arrived.
type dying struct {
	*db.Store
	dead atomic.Bool
}

var errDead = errors.New("this replica was killed")

func (d *dying) UsageArrived(context.Context, []usage.Event) error {
	d.dead.Store(true)
	return errDead
}

func (d *dying) ClaimUsage(ctx context.Context, most int, claim time.Duration) ([]usage.Event, error) {
	if d.dead.Load() {
		return nil, errDead
	}
	return d.Store.ClaimUsage(ctx, most, claim)
}

// TestReplicaDiesBeforeItNotes: what one has sent, and died before it noted that, another one sends again, and it counts once.
func TestReplicaDiesBeforeItNotes(t *testing.T) {
	r := newRig(t)
	r.lives(3)
	r.end()
	dead := &dying{Store: r.store}
	err := r.courier(dead).round(t.Context())
	sent, _, _ := r.lago.has()
	if !errors.Is(err, errDead) || len(sent) == 0 {
		t.Fatalf("it died with %v, and Lago has %d", err, len(sent))
	}
	if n := r.counts()[db.UsagePending]; int(n) != len(sent) {
		t.Errorf("%d pending, of %d that were sent", n, len(sent))
	}
	r.start(r.courier(r.store))
	r.settled()
	r.paid()
	if all, _, known := r.lago.has(); known != len(sent) || len(all) != len(sent) || r.counts()[db.UsageRefused] != 0 {
		t.Errorf("%d events were sent, then %d of them again; there are %d, and in the outbox %v", len(sent), known, len(all), r.counts())
	}
}

// TestRefused: an event that Lago does not want holds up no other, is there with the reason, and is delivered when it is tried again and wanted.
func TestRefused(t *testing.T) {
	r := newRig(t)
	r.lives(2)
	r.end()
	r.lago.fault = func(e wireEvent) error {
		if e.Properties["sandbox_id"] == "sb-00000001" && e.Code == "stored" {
			return errors.New("value_is_invalid")
		}
		return nil
	}
	r.start(r.courier(r.store))
	r.settled()
	refused, err := r.store.QueuedUsage(t.Context(), db.UsageRefused, 100)
	if err != nil || len(refused) < 1 || len(refused) > 3 || refused[0].Sandbox != "sb-00000001" || refused[0].Error != "properties: value_is_invalid" {
		t.Fatalf("refused: %+v, %v", refused, err)
	}
	events, _, _ := r.lago.has()
	if counts := r.counts(); int(counts[db.UsageDelivered]) != len(events) || counts[db.UsageDelivered] < 4 {
		t.Errorf("the others: %v", counts)
	}
	r.lago.with(func() { r.lago.fault = nil })
	by := db.By{Actor: "operator", Operation: "req-1"}
	if n, err := r.store.RetryUsage(t.Context(), by, []string{"nothing"}); n != 0 || err != nil {
		t.Errorf("of what is not there: %d, %v", n, err)
	}
	if n, err := r.store.RetryUsage(t.Context(), by, nil); int(n) != len(refused) || err != nil {
		t.Errorf("tried again: %d, %v", n, err)
	}
	r.settled()
	r.paid()
	audit, err := r.store.Audit(t.Context(), db.AuditFilter{Account: r.account, Action: "usage.retry", Limit: 10})
	if err != nil || len(audit) != len(refused) {
		t.Errorf("audit: %+v, %v", audit, err)
	}
}

// TestLagoIsAway: what is not answered, or is answered with no, waits longer and longer, says why, and arrives when Lago is back.
func TestLagoIsAway(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusFound, http.StatusNoContent} {
		r := newRig(t)
		r.lives(1)
		r.end()
		r.lago.status = status
		c := r.courier(r.store)
		if err := c.round(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) {
			t.Errorf("%d: %v", status, err)
		}
		pending, err := r.store.QueuedUsage(t.Context(), db.UsagePending, 100)
		if err != nil || len(pending) == 0 || pending[0].Attempts != 1 || !strings.Contains(pending[0].Error, fmt.Sprint(status)) || pending[0].NextAt.Before(time.Now()) {
			t.Errorf("%d: %+v, %v", status, pending, err)
		}
		if err := c.round(t.Context()); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if _, calls, _ := r.lago.has(); calls != 1 {
			t.Errorf("%d: it does not wait as Retry-After says: %d calls", status, calls)
		}
		r.lago.with(func() { r.lago.status = 0 })
		r.exec("UPDATE usage_outbox SET next_at = now()")
		if err := c.round(t.Context()); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		r.paid()
	}
}

// TestClosesAfterItWasCut: a period that ends with a time before that up to which it was delivered ends there, and nothing is delivered twice or missing.
func TestClosesAfterItWasCut(t *testing.T) {
	r := newRig(t)
	r.lives(1)
	if _, err := r.store.CutUsage(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	r.exec(`INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation, at)
		VALUES ($1, 'sb-00000001', $2, 'stopping', '', '', '', 2, now() - interval '99 minutes')`, string(r.account), string(models.Running))
	r.start(r.courier(r.store))
	r.settled()
	r.paid()
}

// TestSweep: what was delivered is forgotten after a while, and nothing else.
func TestSweep(t *testing.T) {
	r := newRig(t)
	r.lives(1)
	c := r.courier(r.store)
	if err := c.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	had := r.counts()[db.UsageDelivered]
	r.exec("UPDATE usage_outbox SET state = CASE metric WHEN 'stored' THEN 'refused' ELSE state END, delivered_at = now() - interval '31 days' WHERE metric <> 'vcpu'")
	c.swept = time.Time{}
	if err := c.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if counts := r.counts(); counts[db.UsageDelivered] >= had || counts[db.UsageDelivered] == 0 || counts[db.UsageRefused] == 0 {
		t.Errorf("of %d there are %v", had, counts)
	}
}
