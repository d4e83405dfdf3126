package db_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		VCPUs: 4, MemoryMiB: 4096, OverheadMiB: 128, DiskMiB: 9999, Reflinks: true, Templates: []models.Template{{Name: "minimal", DiskMiB: 512, DefaultVCPUs: 1}},
	}
}

var size = models.Size{VCPUs: 1, MemoryMiB: 256, DiskMiB: 512}

func onFirst(hosts []*db.HostUse) (db.Placement, error) {
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

// tablesMade counts the tables that the migrations make.
func tablesMade(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("migrations %v, %v", files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(text), "\nCREATE TABLE ")
	}
	return n
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
	if n, want := tables(), tablesMade(t); n != want {
		t.Errorf("%d tables after up, want %d", n, want)
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
	events, err := s.Events(ctx, sb.ID, 0, 1000)
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
	events, err := s.Events(ctx, sb.ID, 0, 1000)
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
		func([]*db.HostUse) (db.Placement, error) { return db.Placement{}, full })
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
	place := func(hosts []*db.HostUse) (db.Placement, error) {
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
