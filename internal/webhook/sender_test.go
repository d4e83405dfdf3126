package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

// bench is a database with an account and sandboxes, and a receiver.
type bench struct {
	t       *testing.T
	store   *db.Store
	conn    *pgx.Conn
	account id.Account

	mu     sync.Mutex // guards what follows
	got    []string   // "sandbox generation" of what was taken, and webhook.ping
	ids    []string
	answer func(message string) int // status for a message, as in got
}

func newBench(t *testing.T) *bench {
	t.Helper()
	url := stacktest.ForTest(t).PostgresURL
	if _, err := db.MigrateUp(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, answer: func(string) int { return http.StatusOK }}
	var err error
	if b.store, err = db.Open(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.store.Close)
	if b.account, err = b.store.Account(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if b.conn, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.conn.Close(context.Background()) })
	return b
}

// sandbox makes a sandbox without an event.
func (b *bench) sandbox(account id.Account) string {
	b.t.Helper()
	sb := string(id.NewSandbox())
	b.exec(`INSERT INTO sandboxes (id, account_id, name, template, vcpus, memory_mib, disk_mib, metadata, state, generation, reason, operation, network)
		VALUES ($1, $2, '', 'minimal', 1, 256, 512, '{}', 'pending', 1, '', 'x', '{}')`, sb, account)
	return sb
}

func (b *bench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

// event writes an event that changes nothing that is counted.
func (b *bench) event(sb string, generation int, to string) {
	b.t.Helper()
	b.exec(`INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation)
		SELECT account_id, id, 'pending', $3, '', 'system', 'x', $2 FROM sandboxes WHERE id = $1`, sb, generation, to)
}

// receive is where webhooks lead.
func (b *bench) receive() string {
	b.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var m struct {
			Type string
			Data struct {
				Sandbox    string
				Generation int
			}
		}
		if err := json.Unmarshal(body, &m); err != nil {
			b.t.Errorf("body %s: %v", body, err)
		}
		name := m.Type
		if m.Type != PingType {
			name = fmt.Sprint(m.Data.Sandbox, " ", m.Data.Generation)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		status := b.answer(name)
		if status == http.StatusOK {
			b.got, b.ids = append(b.got, name), append(b.ids, r.Header.Get("webhook-id"))
		}
		w.WriteHeader(status)
	}))
	b.t.Cleanup(server.Close)
	return server.URL
}

func (b *bench) hook(url string, events ...string) db.Webhook {
	b.t.Helper()
	w, err := b.store.CreateWebhook(b.t.Context(), db.NewWebhook{
		ID: id.NewWebhook(), Account: b.account, URL: url, Events: append([]string{}, events...), Secret: NewSecret(), Enabled: true, By: db.By{Actor: "key-00000001", Operation: "req-1"},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return w
}

// run has senders work until stop is called.
func (b *bench) run(senders int, p Pace) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	view := func(e db.Event) any { return map[string]any{"sandbox": e.Sandbox, "generation": e.Generation} }
	for range senders {
		s := NewSender(Options{Store: b.store, View: view, Allowed: loopback, Log: slog.New(slog.DiscardHandler), Pace: p})
		wg.Go(func() { s.Run(ctx) })
	}
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func (b *bench) eventually(what string, is func() bool) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("it never came true that %s; taken: %v", what, b.taken())
		}
	}
}

func (b *bench) now(w db.Webhook) db.Webhook {
	b.t.Helper()
	now, err := b.store.Webhook(b.t.Context(), b.account, w.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return now
}

func (b *bench) deliveries(w db.Webhook) []db.Delivery {
	b.t.Helper()
	all, err := b.store.Deliveries(b.t.Context(), db.DeliveryFilter{Webhook: w.ID, Before: 1 << 60, Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

var quick = Pace{Tick: 10 * time.Millisecond, First: 10 * time.Millisecond, Most: 50 * time.Millisecond}

// TestEveryEventInOrder: each event of the account is delivered, those of a sandbox in their order, also where a receiver fails now and then and several replicas send; none of another account is.
func TestEveryEventInOrder(t *testing.T) {
	b := newBench(t)
	other, err := b.store.Account(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	sandboxes := []string{b.sandbox(b.account), b.sandbox(b.account), b.sandbox(b.account)}
	foreign := b.sandbox(other)
	b.event(sandboxes[0], 1, "pending") // before there is a webhook
	calls := 0
	b.answer = func(string) int {
		if calls++; calls%4 == 0 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}
	w := b.hook(b.receive())
	b.run(3, quick)
	const last = 15
	for generation := 2; generation <= last; generation++ {
		for _, sb := range append(sandboxes, foreign) {
			b.event(sb, generation, "pending")
		}
	}
	b.eventually("all is delivered", func() bool {
		all := b.deliveries(w)
		return len(all) == 3*(last-1) && !slices.ContainsFunc(all, func(d db.Delivery) bool { return d.State != db.Delivered })
	})
	at := map[string]int{}
	for _, message := range b.taken() {
		var sb string
		var generation int
		if _, err := fmt.Sscan(message, &sb, &generation); err != nil || sb == foreign || generation != max(at[sb], 1)+1 {
			t.Fatalf("%s comes after generation %d: %v", message, at[sb], b.taken())
		}
		at[sb] = generation
	}
	for _, d := range b.deliveries(w) {
		if d.State != db.Delivered || d.Attempts < 1 || d.Status != http.StatusOK || d.Error != "" || !d.NextAt.IsZero() {
			t.Errorf("delivery %+v", d)
		}
	}
}

// TestFailing: a receiver that fails is tried again with the same message, and is seen to fail; others and other sandboxes do not wait for one message that is never taken.
func TestFailing(t *testing.T) {
	b := newBench(t)
	bad, good := b.sandbox(b.account), b.sandbox(b.account)
	b.answer = func(m string) int {
		if strings.HasPrefix(m, bad) {
			return http.StatusBadRequest
		}
		return http.StatusOK
	}
	w := b.hook(b.receive(), EventType("paused"))
	dead := b.hook("http://127.0.0.1:1/")
	b.run(1, quick)
	b.event(bad, 2, "paused")
	b.event(bad, 3, "paused")
	b.event(good, 2, "pending") // of no interest
	b.event(good, 3, "paused")
	b.event(good, 4, "paused")
	b.eventually("the other sandbox's are delivered", func() bool { return len(b.taken()) == 2 })
	var now db.Webhook
	b.eventually("it fails again", func() bool { now = b.now(w); return now.Failures > 1 }) // what succeeds in between ends that
	if !now.Enabled || now.Failure != "the receiver answered with status 400" || now.FailingSince.IsZero() || now.RetryAt.IsZero() {
		t.Errorf("it fails: %+v", now)
	}
	if now := b.now(dead); now.Failure != "the receiver refused the connection" {
		t.Errorf("a receiver that is not there: %+v", now)
	}
	b.mu.Lock()
	b.answer = func(string) int { return http.StatusOK }
	b.mu.Unlock()
	b.eventually("it works again", func() bool { return len(b.taken()) == 4 && b.now(w).Failures == 0 })
	if want := []string{good + " 3", good + " 4", bad + " 2", bad + " 3"}; !slices.Equal(b.taken(), want) {
		t.Errorf("taken %v, want %v", b.taken(), want)
	}
}

// TestGivenUp: what cannot be delivered for too long is given up, and the webhook disabled, with an audit event; 410 does that at once. One that is enabled again goes on with what comes, and
// what was given up can be sent again.
func TestGivenUp(t *testing.T) {
	b := newBench(t)
	sb := b.sandbox(b.account)
	b.answer = func(string) int { return http.StatusServiceUnavailable }
	w := b.hook(b.receive())
	pace := quick
	pace.GiveUp = 100 * time.Millisecond
	b.run(1, pace)
	b.event(sb, 2, "pending")
	b.eventually("it is disabled", func() bool { return !b.now(w).Enabled })
	b.event(sb, 3, "pending") // of which it is not told
	if now := b.now(w); now.Failure != "the receiver answered with status 503" || now.FailingSince.IsZero() {
		t.Errorf("disabled: %+v", now)
	}
	log, err := b.store.AuditLog(t.Context(), b.account, 1)
	if err != nil || log[0].Action != "webhook.disable" || log[0].Actor != "system" || log[0].Target != string(w.ID) {
		t.Errorf("audit: %+v, %v", log, err)
	}
	first := b.deliveries(w)
	if len(first) != 1 || first[0].Attempts < 2 || first[0].Status != http.StatusServiceUnavailable {
		t.Fatalf("deliveries: %+v", first)
	}
	b.mu.Lock()
	b.answer = func(string) int { return http.StatusOK }
	b.mu.Unlock()
	on := true
	by := db.By{Actor: "key-00000001", Operation: "req-2"}
	if now, err := b.store.ChangeWebhook(t.Context(), b.account, w.ID, by, db.WebhookChange{Enabled: &on}); err != nil || now.Failures != 0 || now.Failure != "" {
		t.Errorf("enabled: %+v, %v", now, err)
	}
	if _, err := b.store.RetryDelivery(t.Context(), b.account, w.ID, first[0].ID, by); err != nil {
		t.Fatal(err)
	}
	b.eventually("it is delivered", func() bool { return len(b.taken()) == 1 })
	b.event(sb, 4, "pending")
	b.eventually("what comes is delivered", func() bool { return len(b.taken()) == 2 })
	if want := []string{sb + " 2", sb + " 4"}; !slices.Equal(b.taken(), want) || b.ids[0] != string(first[0].ID) {
		t.Errorf("taken %v, want %v", b.taken(), want)
	}
	b.mu.Lock()
	b.answer = func(string) int { return http.StatusGone }
	b.mu.Unlock()
	if _, err := b.store.PingWebhook(t.Context(), b.account, w.ID, by); err != nil {
		t.Fatal(err)
	}
	b.eventually("410 disables it", func() bool { return !b.now(w).Enabled })
}

// TestSweep forgets what has ended, and nothing else.
func TestSweep(t *testing.T) {
	b := newBench(t)
	w := b.hook("http://127.0.0.1:1/")
	by := db.By{Actor: "key-00000001", Operation: "req-2"}
	for range 3 {
		if _, err := b.store.PingWebhook(t.Context(), b.account, w.ID, by); err != nil {
			t.Fatal(err)
		}
	}
	all := b.deliveries(w)
	for _, d := range all[:2] {
		if err := b.store.NoteDelivered(t.Context(), db.Message{ID: d.ID}, 200); err != nil {
			t.Fatal(err)
		}
	}
	b.exec("UPDATE webhook_deliveries SET last_at = now() - interval '8 days' WHERE id = $1", string(all[0].ID))
	if n, err := b.store.SweepDeliveries(t.Context(), keepEnded, sweepAtOnce); n != 1 || err != nil {
		t.Errorf("%d forgotten, %v", n, err)
	}
	if left := b.deliveries(w); len(left) != 2 || left[0].ID != all[1].ID {
		t.Errorf("left: %+v", left)
	}
}

// rotating is a store of which a webhook's secret is changed at the moment when it is known what to send.
type rotating struct {
	*db.Store
	rotate func()
}

// NextMessages implements Store.
func (s rotating) NextMessages(ctx context.Context, w db.LeasedWebhook, most int) ([]db.Message, error) {
	next, err := s.Store.NextMessages(ctx, w, most)
	if len(next) > 0 {
		s.rotate()
	}
	return next, err
}

// TestRotatedMeanwhile: from a rotation on nothing is sent that the new secret has not signed.
func TestRotatedMeanwhile(t *testing.T) {
	b := newBench(t)
	headers := make(chan http.Header, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { headers <- r.Header }))
	t.Cleanup(server.Close)
	w := b.hook(server.URL)
	by := db.By{Actor: "key-00000001", Operation: "req-2"}
	rotate := sync.OnceFunc(func() {
		if _, err := b.store.RotateWebhook(t.Context(), b.account, w.ID, by, NewSecret(), time.Hour); err != nil {
			t.Error(err)
		}
	})
	s := NewSender(Options{Store: rotating{b.store, rotate}, Allowed: loopback, Log: slog.New(slog.DiscardHandler), Pace: quick})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	if _, err := b.store.PingWebhook(t.Context(), b.account, w.ID, by); err != nil {
		t.Fatal(err)
	}
	if header := <-headers; len(strings.Fields(header.Get(headerSignature))) != 2 {
		t.Errorf("it is signed by one of the two secrets alone: %v", header)
	}
	cancel()
	<-done
}

// TestEnabledMeanwhile: a round that looked for events before a webhook was disabled and enabled again does not take it back to those of the time between.
func TestEnabledMeanwhile(t *testing.T) {
	b := newBench(t)
	ctx, sb := t.Context(), b.sandbox(b.account)
	w := b.hook(b.receive())
	queue := func(as db.LeasedWebhook, horizon int64) {
		t.Helper()
		if _, err := b.store.QueueDeliveries(ctx, as, horizon, 100, 100); err != nil {
			t.Fatal(err)
		}
	}
	enable := func(on bool) {
		t.Helper()
		if _, err := b.store.ChangeWebhook(ctx, b.account, w.ID, db.By{Actor: "key-00000001", Operation: "req-2"}, db.WebhookChange{Enabled: &on}); err != nil {
			t.Fatal(err)
		}
	}
	horizon := func() int64 {
		t.Helper()
		at, err := b.store.EventHorizon(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	b.event(sb, 2, "pending")
	before := horizon()
	claimed, err := b.store.ClaimWebhooks(ctx, before, 1, time.Minute)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
	enable(false)
	b.event(sb, 3, "pending")
	enable(true)
	queue(claimed[0], before)
	b.event(sb, 4, "pending")
	queue(claimed[0], horizon())
	if all := b.deliveries(w); len(all) != 1 {
		t.Errorf("deliveries of %d events, want of the one that came since: %+v", len(all), all)
	}
}
