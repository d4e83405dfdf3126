package db_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestCarriers: whatever begins an operation notes who carries it out, whatever ends one forgets it.
func TestCarriers(t *testing.T) {
	s, account, url := open(t)
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	carried := func(sb id.Sandbox) (by string) {
		t.Helper()
		if err := conn.QueryRow(ctx, "SELECT coalesce(carried_by, '') FROM sandboxes WHERE id = $1", sb).Scan(&by); err != nil {
			t.Fatal(err)
		}
		return by
	}
	sb := create(t, s, account)
	if got := carried(sb.ID); got != "" {
		t.Errorf("before it has said that it is alive, %q carries out its operation", got)
	}
	me := id.NewReplica()
	if err := s.Beat(ctx, me); err != nil {
		t.Fatal(err)
	}
	sb = create(t, s, account)
	change := func(what string, state models.State, do func(db.Change) (models.Sandbox, error)) {
		t.Helper()
		c, want := to(sb, state), ""
		if state != models.Running && state != models.Paused {
			c.Within, want = time.Minute, string(me)
		}
		if sb, err = do(c); err != nil {
			t.Fatal(err)
		}
		if got := carried(sb.ID); got != want {
			t.Errorf("%s: carried out by %q, want %q", what, got, want)
		}
	}
	plain := func(c db.Change) (models.Sandbox, error) { return s.Transition(ctx, c) }
	if got := carried(sb.ID); got != string(me) {
		t.Errorf("a create is carried out by %q", got)
	}
	change("started", models.Running, plain)
	change("Transition", models.Pausing, plain)
	change("paused", models.Paused, plain)
	change("TransitionPlaced", models.Resuming, func(c db.Change) (models.Sandbox, error) {
		return s.TransitionPlaced(ctx, c, func(hosts []*db.HostUse) (id.Host, error) { return hosts[0].ID, nil })
	})
	change("resumed", models.Running, plain)
	change("TransitionIf", models.Stopping, func(c db.Change) (models.Sandbox, error) {
		return s.TransitionIf(ctx, c, func(models.Sandbox, time.Time) bool { return true })
	})
	if _, err := conn.Exec(ctx, "UPDATE replicas SET seen_at = seen_at - interval '1 minute'"); err != nil {
		t.Fatal(err)
	}
	var up time.Duration
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp() - pg_postmaster_start_time()").Scan(&up); err != nil {
		t.Fatal(err)
	}
	rows, err := s.RowsForHost(ctx, "host-00000001", nil)
	for _, row := range rows { // a Postgres that was away just now has heard nobody
		if want := row.ID == sb.ID && up > db.Silence; row.Forsaken != want {
			t.Errorf("%+v, want it forsaken %t; Postgres is up for %s", row, want, up)
		}
	}
	if err != nil || len(rows) != 2 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	children, err := s.CreateForks(ctx, []db.NewSandbox{
		{ID: id.NewSandbox(), Account: account, Template: "minimal", By: by, Within: time.Minute},
		{ID: id.NewSandbox(), Account: account, Template: "minimal", By: by, Within: time.Minute},
	}, onFirst)
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range children {
		if got := carried(child.ID); got != string(me) {
			t.Errorf("a fork is carried out by %q", got)
		}
	}
}
