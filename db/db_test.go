package db_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

var by = db.By{Actor: "key-00000001", Operation: "req-1"}

// open returns a store on a migrated database of t's own, with one account and one host.
func open(t *testing.T) (*db.Store, id.Account, string) {
	t.Helper()
	url := stacktest.ForTest(t).PostgresURL
	if _, err := db.MigrateUp(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	s, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	account, err := s.Account(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RegisterHost(t.Context(), aHost("host-00000001"), true); err != nil {
		t.Fatal(err)
	}
	return s, account, url
}

func aHost(h id.Host) db.Host {
	return db.Host{
		ID: h, Name: "a", Address: "unix:///a", AgentVersion: "1", Driver: "qemu", DriverVersion: "7.2", Accelerator: "tcg",
		VCPUs: 4, MemoryMiB: 4096, DiskMiB: 9999, Reflinks: true, Templates: []db.Template{{Name: "minimal", DiskMiB: 512, DefaultVCPUs: 1}},
	}
}

var size = models.Size{VCPUs: 1, MemoryMiB: 256, DiskMiB: 512}

func onFirst(hosts []db.HostUse) (db.Placement, error) {
	return db.Placement{Host: hosts[0].ID, Size: size}, nil
}

func create(t *testing.T, s *db.Store, account id.Account) models.Sandbox {
	t.Helper()
	sb, err := s.CreateSandbox(t.Context(), db.NewSandbox{
		ID: id.NewSandbox(), Account: account, Name: "n", Template: "minimal",
		Metadata: map[string]string{"a": "ü"}, By: by, Within: time.Minute,
	}, onFirst)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func to(sb models.Sandbox, state models.State) db.Change {
	return db.Change{ID: sb.ID, From: sb.State, Generation: sb.Generation, To: state, By: by}
}

func TestMigrations(t *testing.T) {
	url := stacktest.ForTest(t).PostgresURL
	ctx := t.Context()
	var wg sync.WaitGroup
	for range 4 { // several replicas that start at once
		wg.Go(func() {
			if _, err := db.MigrateUp(ctx, url); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tables := func() int {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		var n int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := tables(); n != 6 {
		t.Errorf("%d tables after up, want 6", n)
	}
	all, err := db.Migrations(ctx, url)
	if err != nil || len(all) == 0 || slices.ContainsFunc(all, func(m db.Migration) bool { return m.AppliedAt.IsZero() }) {
		t.Errorf("Migrations = %+v, %v", all, err)
	}
	if err := db.MigrateReset(ctx, url); err != nil {
		t.Fatal(err)
	}
	if n := tables(); n != 0 {
		t.Errorf("%d tables after reset", n)
	}
	if err := db.MigrateDown(ctx, url); err != nil {
		t.Errorf("down of an empty database: %v", err)
	}
	if steps, err := db.MigrateUp(ctx, url); err != nil || steps != len(all) {
		t.Errorf("up again took %d steps, %v", steps, err)
	}
	if steps, err := db.MigrateUp(ctx, url); err != nil || steps != 0 {
		t.Errorf("a second up took %d steps, %v", steps, err)
	}
}

// TestLifeOfASandbox checks the rows, the events and the audit log of one whole life.
func TestLifeOfASandbox(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	sb := create(t, s, account)
	if sb.State != models.Starting || sb.Generation != 2 || sb.Host != "host-00000001" || sb.Deadline.IsZero() || !sb.StartedAt.IsZero() {
		t.Errorf("created: %+v", sb)
	}
	run := to(sb, models.Running)
	run.Steps = []models.Step{{Name: "boot", Duration: 1500 * time.Microsecond}}
	run.Audit = db.Audit{Action: "sandbox.create", Outcome: "ok"}
	running, err := s.Transition(ctx, run)
	if err != nil {
		t.Fatal(err)
	}
	if running.State != models.Running || running.Generation != 3 || !running.Deadline.IsZero() || running.StartedAt.IsZero() {
		t.Errorf("running: %+v", running)
	}
	read, err := s.Sandbox(ctx, account, sb.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(running, read); diff != "" {
		t.Errorf("what was written and what is read differ:\n%s", diff)
	}
	if !cmp.Equal(read.Steps, run.Steps) || read.Metadata["a"] != "ü" || read.Size != size {
		t.Errorf("read: %+v", read)
	}
	fail := to(running, models.Failed)
	fail.Reason = "guest panic"
	if _, err := s.Transition(ctx, fail); err != nil {
		t.Fatal(err)
	}
	events, err := s.Events(ctx, sb.ID)
	if err != nil {
		t.Fatal(err)
	}
	var story []string
	for _, e := range events {
		story = append(story, fmt.Sprintf("%s>%s %d %s", e.From, e.To, e.Generation, e.Reason))
	}
	want := []string{">pending 1 ", "pending>starting 2 ", "starting>running 3 ", "running>error 4 guest panic"}
	if !slices.Equal(story, want) {
		t.Errorf("events %q, want %q", story, want)
	}
	audit, err := s.AuditLog(ctx, account, 10)
	if err != nil || len(audit) != 2 || audit[1].Outcome != "accepted" || audit[0].Outcome != "ok" ||
		audit[0].Target != string(sb.ID) || audit[0].Actor != by.Actor || audit[0].RequestID != by.Operation {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

func TestTransitionIsCompareAndSet(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	sb := create(t, s, account)
	other := db.By{Actor: "system", Operation: "other"}
	for name, c := range map[string]db.Change{
		"generation": {ID: sb.ID, From: sb.State, Generation: sb.Generation - 1, To: models.Running, By: other},
		"state":      {ID: sb.ID, From: models.Running, Generation: sb.Generation, To: models.Failed, By: other},
	} {
		now, err := s.Transition(ctx, c)
		if !errors.Is(err, db.ErrMoved) || now.State != models.Starting {
			t.Errorf("wrong %s: %v, row %s", name, err, now.State)
		}
	}
	if _, err := s.Transition(ctx, db.Change{ID: "sb-ffffffff", From: models.Running, Generation: 1, To: models.Failed, By: by}); models.CodeOf(err) != models.NotFound {
		t.Errorf("a sandbox that is not there: %v", err)
	}
	// Of many at once exactly one wins, and one event is written.
	var wg sync.WaitGroup
	won := make(chan string, 20)
	for i := range 20 {
		wg.Go(func() {
			c := to(sb, models.Running)
			c.By.Operation = fmt.Sprintf("op-%d", i)
			if _, err := s.Transition(ctx, c); err == nil {
				won <- c.By.Operation
			} else if !errors.Is(err, db.ErrMoved) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d of 20 simultaneous changes were made", len(won))
	}
	events, err := s.Events(ctx, sb.ID)
	if err != nil || len(events) != 3 {
		t.Errorf("%d events, %v; want 3", len(events), err)
	}
	// The winner, when it asks again because it has not heard the answer, is told so.
	again := to(sb, models.Running)
	again.By.Operation = <-won
	if _, err := s.Transition(ctx, again); err != nil {
		t.Errorf("the repeated change: %v", err)
	}
}

func TestRefusedPlacementLeavesNothing(t *testing.T) {
	s, account, _ := open(t)
	full := models.Errorf(models.Exhausted, "full")
	_, err := s.CreateSandbox(t.Context(), db.NewSandbox{ID: "sb-00000001", Account: account, By: by, Within: time.Minute},
		func([]db.HostUse) (db.Placement, error) { return db.Placement{}, full })
	if !errors.Is(err, full) {
		t.Errorf("CreateSandbox: %v", err)
	}
	if _, err := s.Sandbox(t.Context(), account, "sb-00000001"); models.CodeOf(err) != models.NotFound {
		t.Errorf("the sandbox is there: %v", err)
	}
	if audit, _ := s.AuditLog(t.Context(), account, 10); len(audit) != 0 {
		t.Errorf("audit log: %+v", audit)
	}
}

func TestTakenID(t *testing.T) {
	s, account, _ := open(t)
	sb := create(t, s, account)
	n := db.NewSandbox{ID: sb.ID, Account: account, Template: "minimal", By: db.By{Actor: "x", Operation: "another"}, Within: time.Minute}
	if _, err := s.CreateSandbox(t.Context(), n, onFirst); models.CodeOf(err) != models.Conflict {
		t.Errorf("an id that is taken: %v", err)
	}
	n.By = by // the same operation, which has not heard that it succeeded
	if again, err := s.CreateSandbox(t.Context(), n, onFirst); err != nil || again.ID != sb.ID {
		t.Errorf("the same operation again: %+v, %v", again, err)
	}
}

// TestPlacementsDoNotOverlap: however many creates run at once, each sees what the others took.
func TestPlacementsDoNotOverlap(t *testing.T) {
	s, account, _ := open(t)
	const room = 5
	place := func(hosts []db.HostUse) (db.Placement, error) {
		if hosts[0].Use.Sandboxes >= room {
			return db.Placement{}, models.Errorf(models.Exhausted, "full")
		}
		return onFirst(hosts)
	}
	var wg sync.WaitGroup
	made := make(chan id.Sandbox, 20)
	for range 20 {
		wg.Go(func() {
			n := db.NewSandbox{ID: id.NewSandbox(), Account: account, Template: "minimal", By: by, Within: time.Minute}
			switch sb, err := s.CreateSandbox(context.WithoutCancel(t.Context()), n, place); models.CodeOf(err) {
			case models.Exhausted:
			default:
				if err != nil {
					t.Error(err)
				}
				made <- sb.ID
			}
		})
	}
	wg.Wait()
	if len(made) != room {
		t.Errorf("%d sandboxes on a host with room for %d", len(made), room)
	}
}

func TestListPages(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	var want []id.Sandbox
	for range 5 {
		want = append(want, create(t, s, account).ID)
	}
	slices.Reverse(want)
	other, err := s.Account(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, other)
	f := db.Filter{Account: account, States: []models.State{models.Starting, models.Running}, Limit: 2}
	var got []id.Sandbox
	for {
		page, err := s.List(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, sb := range page {
			got = append(got, sb.ID)
		}
		last := page[len(page)-1]
		f.Before, f.BeforeID = last.CreatedAt, last.ID
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages gave %v, want %v", got, want)
	}
	for name, f := range map[string]db.Filter{
		"state":    {Account: account, States: []models.State{models.Stopped}, Limit: 9},
		"template": {Account: account, States: f.States, Template: "nope", Limit: 9},
	} {
		if page, err := s.List(ctx, f); err != nil || len(page) != 0 {
			t.Errorf("filter by %s gave %d, %v", name, len(page), err)
		}
	}
}

func TestKeys(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	k := db.NewKey{ID: id.NewKey(), Account: account, Hash: [32]byte{1}, Prefix: "wrn_0000", Name: "ci", By: db.By{Actor: "operator", Operation: "req-k"}}
	if err := s.CreateKey(ctx, k); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateKey(ctx, k); err != nil { // the answer to the first was lost
		t.Errorf("the same again: %v", err)
	}
	same := k
	same.ID = id.NewKey()
	if err := s.CreateKey(ctx, same); models.CodeOf(err) != models.Conflict {
		t.Errorf("another key of the same hash: %v", err)
	}
	key, owner, err := s.KeyByHash(ctx, k.Hash)
	if err != nil || key != k.ID || owner != account {
		t.Errorf("KeyByHash = %s, %s, %v", key, owner, err)
	}
	at := time.Now().Truncate(time.Microsecond)
	if err := s.TouchKeys(ctx, map[id.Key]time.Time{k.ID: at}); err != nil {
		t.Fatal(err)
	}
	if err := s.TouchKeys(ctx, map[id.Key]time.Time{k.ID: at.Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if hash, err := s.RevokeKey(ctx, k.ID, k.By); err != nil || hash != k.Hash {
		t.Errorf("RevokeKey = %v, %v", hash, err)
	}
	if _, err := s.RevokeKey(ctx, k.ID, k.By); models.CodeOf(err) != models.NotFound {
		t.Errorf("a second revoke: %v", err)
	}
	if _, _, err := s.KeyByHash(ctx, k.Hash); models.CodeOf(err) != models.NotFound {
		t.Errorf("a revoked key: %v", err)
	}
	keys, err := s.Keys(ctx)
	if err != nil || len(keys) != 1 || keys[0].RevokedAt.IsZero() || !keys[0].LastUsedAt.Equal(at) || keys[0].Account != "acme" {
		t.Errorf("Keys = %+v, %v; want one, revoked, last used at %s", keys, err, at)
	}
	audit, err := s.AuditLog(ctx, account, 10)
	if err != nil || len(audit) != 2 || audit[0].Action != "key.revoke" || audit[1].Action != "key.create" {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

func TestHosts(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	again, replaced, err := s.RegisterHost(ctx, aHost("host-00000001"), true)
	if err != nil || again.Connects != 2 || len(replaced) != 0 {
		t.Errorf("second connection: %+v, %v, %v", again, replaced, err)
	}
	if beat, _, err := s.RegisterHost(ctx, aHost("host-00000001"), false); err != nil || beat.Connects != 2 {
		t.Errorf("heartbeat counts as a connection: %+v, %v", beat, err)
	}
	sb := create(t, s, account)
	rows, err := s.RowsForHost(ctx, "host-00000001", nil)
	if err != nil || len(rows) != 1 || rows[0].ID != sb.ID || rows[0].Overdue || rows[0].Generation != sb.Generation {
		t.Errorf("rows %+v, %v", rows, err)
	}
	if homeless, err := s.Homeless(ctx); err != nil || len(homeless) != 0 {
		t.Errorf("homeless %+v, %v", homeless, err)
	}
	if _, replaced, err = s.RegisterHost(ctx, aHost("host-00000002"), true); err != nil || !slices.Equal(replaced, []id.Host{"host-00000001"}) {
		t.Errorf("another host at the address replaced %v, %v", replaced, err)
	}
	if homeless, err := s.Homeless(ctx); err != nil || len(homeless) != 1 || homeless[0].ID != sb.ID {
		t.Errorf("homeless %+v, %v", homeless, err)
	}
	hosts, err := s.Hosts(ctx)
	if err != nil || len(hosts) != 1 || hosts[0].ID != "host-00000002" || hosts[0].Templates[0].Name != "minimal" {
		t.Errorf("hosts %+v, %v", hosts, err)
	}
	seen, err := s.RowsForHost(ctx, "host-00000002", []id.Sandbox{sb.ID, "sb-99999999"})
	if err != nil || len(seen) != 1 || seen[0].Host != "host-00000001" {
		t.Errorf("rows of what another host was seen to hold: %+v, %v", seen, err)
	}
}

func TestLease(t *testing.T) {
	s, _, url := open(t)
	ctx := t.Context()
	first, err := s.Lead(ctx)
	if err != nil || first == nil {
		t.Fatalf("Lead = %v, %v", first, err)
	}
	if second, err := s.Lead(ctx); err != nil || second != nil {
		t.Errorf("a second leader: %v, %v", second, err)
	}
	terminate(t, url)
	if err := first.Check(ctx); err == nil {
		t.Error("a lease is held whose connection was cut")
	}
	first.Release(ctx)
	third, err := s.Lead(ctx)
	for end := time.Now().Add(time.Minute); third == nil && time.Now().Before(end); third, err = s.Lead(ctx) {
		time.Sleep(10 * time.Millisecond) // the server is still ending the session
	}
	if third == nil {
		t.Fatalf("nobody leads after the leader was cut off: %v", err)
	}
	third.Release(ctx)
}

// TestPostgresGoesAway cuts all connections again and again while sandboxes are made and
// changed: nothing fails, and each change is made once. The cuts follow the work, so that a slow
// machine does not see more of them.
func TestPostgresGoesAway(t *testing.T) {
	s, account, url := open(t)
	ctx := t.Context()
	cut := make(chan struct{}, 1)
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for range cut {
			terminate(t, url)
		}
	})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 15 {
				op := db.By{Actor: "a", Operation: fmt.Sprintf("op-%d-%d", w, i)}
				n := db.NewSandbox{ID: id.NewSandbox(), Account: account, Template: "minimal", By: op, Within: time.Minute}
				sb, err := s.CreateSandbox(ctx, n, onFirst)
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				c := to(sb, models.Running)
				c.By = op
				if now, err := s.Transition(ctx, c); err != nil || now.Generation != 3 {
					t.Errorf("transition: %+v, %v", now, err)
				}
				if events, err := s.Events(ctx, sb.ID); err != nil || len(events) != 3 {
					t.Errorf("%d events, %v", len(events), err)
				}
				select {
				case cut <- struct{}{}:
				default:
				}
			}
		})
	}
	wg.Wait()
	close(cut)
	cutter.Wait()
}

// terminate ends all other connections to t's database, as a restart of the server does.
func terminate(t *testing.T, url string) {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(),
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if err != nil {
		t.Error(err)
	}
}

func TestUnreachableIsCoded(t *testing.T) {
	s, err := db.Open(t.Context(), "postgres:///x?host=/nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); models.CodeOf(err) != models.Unavailable {
		t.Errorf("Ping: %v", err)
	}
	if _, err := s.Hosts(t.Context()); models.CodeOf(err) != models.Unavailable {
		t.Errorf("Hosts: %v", err)
	}
}
