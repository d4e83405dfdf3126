package db

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
)

// TestNotesOutliveReads: what is noted of a host while views of it are read is in each of them, and what was noted before is not counted twice.
func TestNotesOutliveReads(t *testing.T) {
	read := func(sandboxes int64) []*HostUse {
		return []*HostUse{{Host: Host{ID: "host-00000001"}, Use: Use{Sandboxes: sandboxes}}, {Host: Host{ID: "host-00000002"}}}
	}
	one := func(h HostUse) HostUse {
		h.Use.Sandboxes++
		return h
	}
	var v hostViews
	want := func(what string, sandboxes int64) {
		t.Helper()
		if got := v.all[0].Use.Sandboxes; got != sandboxes || v.all[1].Use.Sandboxes != 0 {
			t.Errorf("%s the hosts have %d and %d sandboxes, want %d and none", what, got, v.all[1].Use.Sandboxes, sandboxes)
		}
	}
	began, noted := v.begin()
	v.end(began, noted, read(10), nil)
	kept := v.all[0]
	v.note("host-00000001", one)
	want("after a note", 11)
	if kept.Use.Sandboxes != 10 {
		t.Error("who has the view from before sees the note")
	}

	began, noted = v.begin()
	v.note("host-00000001", one)
	later, notedLater := v.begin()
	v.note("host-00000001", one)
	v.end(began, noted, read(11), nil)
	want("after a read with two notes since", 13)
	v.end(later, notedLater, read(12), nil)
	want("after a read with one note since", 13)
	began, noted = v.begin()
	v.end(began, noted, read(13), nil)
	want("after a read without", 13)

	began, noted = v.begin()
	v.end(began, noted, nil, errPassed)
	if want("after a read that failed", 13); time.Now().Before(v.old) {
		t.Error("the view is of use after a read that failed")
	}
}

// meanwhile is a database beside whose queries something else happens.
type meanwhile struct {
	dbgen.DBTX
	happens func()
}

// Query implements dbgen.DBTX.
func (m meanwhile) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	m.happens()
	return m.DBTX.Query(ctx, sql, args...)
}

// TestFirstPlacementsSpread: who reads the hosts himself sees what others have chosen meanwhile, so that those who begin at once do not wait for each other on one host.
func TestFirstPlacementsSpread(t *testing.T) {
	url := stacktest.ForTest(t).PostgresURL
	if _, err := MigrateUp(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if _, _, err := s.RegisterHost(t.Context(), Host{ID: "host-00000001"}, true); err != nil {
		t.Fatal(err)
	}
	chosen := 0
	others := meanwhile{s.pool, func() {
		chosen++
		s.hosts.note("host-00000001", func(h HostUse) HostUse {
			h.Use.Sandboxes++
			return h
		})
	}}
	hosts, err := s.hosts.now(t.Context(), dbgen.New(others))
	if err != nil || len(hosts) != 1 || chosen == 0 || hosts[0].Use.Sandboxes != int64(chosen) {
		t.Errorf("%d were chosen meanwhile, and the view is %+v, %v", chosen, hosts, err)
	}
}

// TestStatementsTakeOneProcessor: what is read of all sandboxes, in the background, is not read by several processors of the database.
func TestStatementsTakeOneProcessor(t *testing.T) {
	s, err := Open(t.Context(), stacktest.ForTest(t).PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	var workers string
	if err := s.pool.QueryRow(t.Context(), "SHOW max_parallel_workers_per_gather").Scan(&workers); err != nil || workers != "0" {
		t.Errorf("%q processes help with a statement, %v", workers, err)
	}
}
