package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/eventfeed"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type eventAnswer struct {
	ID         string        `json:"id"`
	Sandbox    string        `json:"sandbox_id"`
	From       *models.State `json:"from"`
	To         models.State  `json:"to"`
	Generation int64         `json:"generation"`
}

type eventsAnswer struct {
	Items []eventAnswer `json:"items"`
	Next  *string       `json:"next_cursor"`
}

// tail is a stream of events, as far as it was read.
type tail struct {
	t      testing.TB
	cancel context.CancelFunc
	lines  *bufio.Reader
	body   io.Closer
}

// follow begins a stream at a server and returns when nothing can be missed any more.
func (r *rig) follow(server, path, last string) *tail {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	req := r.request("GET", path, "", "Accept", eventStream)
	if last != "" {
		req.Header.Set(lastEventHeader, last)
	}
	req.URL.Host = strings.TrimPrefix(server, "http://")
	resp, err := http.DefaultClient.Do(req.WithContext(ctx))
	if err != nil || resp.StatusCode != http.StatusOK {
		r.t.Fatalf("follow: %v, %v", resp, err)
	}
	f := &tail{t: r.t, cancel: cancel, lines: bufio.NewReader(resp.Body), body: resp.Body}
	r.t.Cleanup(f.close)
	for _, want := range []string{"id: ", "event: following", "data: {}", "\n"} {
		if line, err := f.lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
			r.t.Fatalf("the stream begins with %q, %v; want %q", line, err, want)
		}
	}
	return f
}

func (f *tail) close() {
	f.cancel()
	f.body.Close()
}

// next returns the next event; false at the end of the stream.
func (f *tail) next() (e eventAnswer, ok bool) {
	var name string
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			return e, false
		}
		if kind, ok := strings.CutPrefix(line, "event: "); ok {
			name = strings.TrimSpace(kind)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &e); err != nil || name != "state" {
				f.t.Errorf("event %q: %s %v", name, data, err)
			}
			return e, true
		}
	}
}

// TestEvents: by pages, of one sandbox or all, and of nobody else.
func TestEvents(t *testing.T) {
	r := newRig(t, Limits{})
	a, b := r.create().ID, r.create().ID
	r.call("DELETE", "/v1/sandboxes/"+a, "")
	all := decoded[eventsAnswer](t, r.call("GET", "/v1/events", ""), http.StatusOK)
	if len(all.Items) != 8 || all.Next != nil || all.Items[0].To != models.Stopped || all.Items[0].Sandbox != a || all.Items[7].From != nil {
		t.Errorf("all: %+v", all)
	}
	if of := decoded[eventsAnswer](t, r.call("GET", "/v1/events?sandbox="+b, ""), http.StatusOK).Items; len(of) != 3 || of[0].To != models.Running {
		t.Errorf("of one: %+v", of)
	}
	for path, want := range map[string][]eventAnswer{"/v1/events?": all.Items, "/v1/sandboxes/" + a + "/events?": nil} {
		var paged []eventAnswer
		for cursor := ""; ; {
			page := decoded[eventsAnswer](t, r.call("GET", path+"limit=3"+cursor, ""), http.StatusOK)
			paged = append(paged, page.Items...)
			if page.Next == nil {
				break
			}
			cursor = "&cursor=" + *page.Next
		}
		if want == nil {
			if len(paged) != 5 || paged[0].To != models.Pending || paged[4].To != models.Stopped {
				t.Errorf("%s: %+v", path, paged)
			}
			continue
		}
		if fmt.Sprint(idsOf(paged)) != fmt.Sprint(idsOf(want)) {
			t.Errorf("%s: by pages %v, want %v", path, idsOf(paged), idsOf(want))
		}
	}
	if foreign := decoded[eventsAnswer](t, r.call("GET", "/v1/events", "", auth.Header, string(r.newKey("other"))), http.StatusOK); len(foreign.Items) != 0 {
		t.Errorf("another account sees %+v", foreign)
	}
	for path, says := range map[string]string{
		"/v1/events?cursor=x": "cursor", "/v1/events?cursor=-1": "cursor", "/v1/events?sandbox=x": "sb-xxxxxxxx", "/v1/events?limit=201": "limit",
		"/v1/sandboxes/" + a + "/events?limit=1001": "limit", "/v1/sandboxes/" + a + "/events?sandbox=" + a: `"sandbox"`,
	} {
		r.refused(r.call("GET", path, ""), http.StatusBadRequest, models.Invalid, says)
	}
	for _, last := range []string{"x", "-1", "99999999"} {
		r.refused(r.call("GET", "/v1/events", "", "Accept", eventStream, lastEventHeader, last), http.StatusBadRequest, models.Invalid, lastEventHeader)
	}
	r.refused(r.call("GET", "/v1/events?limit=1", "", "Accept", eventStream), http.StatusBadRequest, models.Invalid, "limit")
}

func idsOf(events []eventAnswer) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.ID
	}
	return all
}

// TestFollow: what happens comes as it happens, of the own account and, if asked, of one sandbox.
func TestFollow(t *testing.T) {
	r := newRig(t, Limits{})
	before := r.create().ID
	all, one := r.follow(r.server.URL, "/v1/events", ""), r.follow(r.server.URL, "/v1/sandboxes/"+before+"/events", "")
	foreign := r.follow(r.server.URL, "/v1/events?sandbox="+before, "")
	made := r.create().ID
	r.call("POST", "/v1/sandboxes/"+before+"/pause", "")
	for _, want := range []string{made + " pending", made + " starting", made + " running", before + " pausing", before + " paused"} {
		if e, ok := all.next(); !ok || e.Sandbox+" "+string(e.To) != want {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	for _, f := range []*tail{one, foreign} {
		for _, want := range []models.State{models.Pausing, models.Paused} {
			if e, ok := f.next(); !ok || e.Sandbox != before || e.To != want {
				t.Errorf("%+v, want %s", e, want)
			}
		}
	}
	history := decoded[eventsAnswer](t, r.call("GET", "/v1/sandboxes/"+before+"/events", ""), http.StatusOK).Items
	again := r.follow(r.server.URL, "/v1/sandboxes/"+before+"/events", history[2].ID)
	for _, want := range history[3:] {
		if e, ok := again.next(); !ok || e.ID != want.ID {
			t.Errorf("resumed with %+v, want %+v", e, want)
		}
	}
	r.feed.End()
	if e, ok := all.next(); ok {
		t.Errorf("after the end of the service: %+v", e)
	}
}

// replica is a second API, with a database pool, a Redis and a feed of its own.
func (r *rig) replica(redisURL string) string {
	r.t.Helper()
	store, err := db.Open(r.t.Context(), r.dbs.PostgresURL)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(store.Close)
	cache, err := auth.OpenCache(redisURL, r.logger)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cache.Close() })
	feed := eventfeed.New(store, cache, r.logger)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { feed.Run(ctx) })
	r.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	server := httptest.NewServer(New(Options{Store: store, Auth: r.auth, Controller: r.ctl, Redis: cache, Feed: feed, Log: r.logger}).Handler())
	r.t.Cleanup(server.Close)
	return server.URL
}

// lag writes events of a sandbox in transactions that end long after the ids of their events were given.
func (r *rig) lag(sb string, most int) {
	conn, err := pgx.Connect(r.t.Context(), r.dbs.PostgresURL)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	for i := range most {
		_, err := conn.Exec(r.t.Context(), fmt.Sprintf(`WITH changed AS (UPDATE sandboxes SET name = name WHERE id = '%[1]s' RETURNING *), event AS (
			INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation)
			SELECT account_id, id, state, state, '', 'system', 'x', %[2]d FROM changed RETURNING id)
			SELECT pg_sleep(%[3]f) FROM event`, sb, 1000+i, 0.03*rand.Float64()))
		if err != nil {
			r.t.Error(err)
			return
		}
	}
}

// TestFollowersMissNothing: while transactions end in another order than their events have ids, connections break, followers go from replica to replica, and Redis goes away,
// each follower has each event once.
func TestFollowersMissNothing(t *testing.T) {
	dbs := stacktest.ForTest(t)
	direct, proxy := dbs.RedisURL, newProxy(t, dbs.RedisURL)
	dbs.RedisURL = "redis://" + proxy.addr()
	r := newRigOn(t, dbs, Limits{})
	servers := []string{r.server.URL, r.replica(direct)}
	subjects := []string{r.create().ID, r.create().ID, r.create().ID}
	start := decoded[eventsAnswer](t, r.call("GET", "/v1/events", ""), http.StatusOK).Items[0].ID
	const followers, each = 4, 60
	total := each*len(subjects) + 3
	patience, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make([][]string, followers)
	var reading, writing sync.WaitGroup
	for n := range followers {
		reading.Go(func() {
			for last := start; len(seen[n]) < total && patience.Err() == nil; {
				f := r.follow(servers[rand.N(2)], "/v1/events", last)
				tired := context.AfterFunc(patience, f.close)
				for i := 1 + rand.N(20); i > 0 && len(seen[n]) < total; i-- {
					e, ok := f.next()
					if !ok {
						break
					}
					seen[n], last = append(seen[n], e.ID), e.ID
				}
				tired()
				f.close()
			}
		})
	}
	for i, sb := range subjects {
		writing.Go(func() {
			r.lag(sb, each)
			if i == 0 {
				proxy.die()
			}
		})
	}
	writing.Wait()
	r.create() // three events more, by way of the first replica
	reading.Wait()
	want := r.eventIDs(start)
	for n, got := range seen {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("follower %d has %d events, want %d: %v, want %v", n, len(got), len(want), got, want)
		}
	}
}

// eventIDs are those of all events after one, by the database's word.
func (r *rig) eventIDs(after string) []string {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dbs.PostgresURL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(r.t.Context(), "SELECT id::text FROM sandbox_events WHERE id > $1::bigint ORDER BY sandbox_events.id", after)
	if err != nil {
		r.t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}
