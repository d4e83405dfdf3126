package db_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// anotherHost registers host-00000002.
func anotherHost(t *testing.T, s *db.Store) {
	t.Helper()
	h := aHost("host-00000002")
	h.Address = "unix:///another"
	if _, _, err := s.RegisterHost(t.Context(), h, true); err != nil {
		t.Fatal(err)
	}
}

// TestHeldHosts: a page, a single host and what placements count agree on what hosts hold, whatever states it is in.
func TestHeldHosts(t *testing.T) {
	s, account, url := open(t)
	anotherHost(t, s)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `INSERT INTO sandboxes (id, account_id, host_id, name, template, vcpus, memory_mib, disk_mib, metadata, state, generation, reason, operation)
		SELECT 'sb-0000000' || to_hex(row_number() OVER ()), $1, 'host-00000001', '', 'minimal', 1, 256, 1000, '{}', state, 1, '', '' FROM unnest(enum_range(NULL::sandbox_state)) AS state`, string(account))
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `INSERT INTO snapshots (id, account_id, host_id, name, sandbox_id, template, vcpus, memory_mib, disk_mib, network, operation, state)
		SELECT 'snap-0000000' || row_number() OVER (), $1, 'host-00000001', state, 'sb-00000001', 'minimal', 1, 256, 1000, '{}', '', state FROM unnest(ARRAY['ready', 'error']) AS state`, string(account))
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.HeldHosts(t.Context())
	if err != nil || len(want) != 2 || want[0].Holds.Running == 0 || want[0].Holds.Sleeping == 0 || want[0].Holds.Snapshots != 1 || want[1].Holds != (db.Holdings{}) {
		t.Fatalf("%+v, %v", want, err)
	}
	page, err := s.PageOfHosts(t.Context(), db.HostFilter{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]db.HeldHost{want[1], want[0]}, page); diff != "" {
		t.Errorf("a page: %s", diff)
	}
	if one, err := s.HeldHost(t.Context(), "host-00000001"); err != nil || !cmp.Equal(one, want[0]) {
		t.Errorf("one: %s, %v", cmp.Diff(want[0], one), err)
	}
	if _, err := s.HeldHost(t.Context(), "host-00000009"); models.CodeOf(err) != models.NotFound {
		t.Errorf("one that is none: %v", err)
	}
}

// TestHostStates: the database tells states as they are told from its rows, and since when a host is in its own, which a heartbeat does not change.
func TestHostStates(t *testing.T) {
	s, _, _ := open(t)
	ctx := t.Context()
	const h = id.Host("host-00000001")
	anotherHost(t, s)
	quarantine := func() error { _, err := s.Quarantine(ctx, h, "its disk is full"); return err }
	drain := func() error { return s.SetDraining(ctx, h, by, true, false) }
	beat := func() error { _, _, err := s.RegisterHost(ctx, aHost(h), false); return err }
	was, err := s.HeldHost(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		do   func() error
		want models.HostState
	}{
		{beat, models.HostReady}, {quarantine, models.HostQuarantined}, {drain, models.HostDraining}, {drain, models.HostDraining},
		{func() error { return s.MarkUnreachable(ctx, h) }, models.HostDown}, {func() error { return s.MarkUnreachable(ctx, h) }, models.HostDown}, {beat, models.HostDraining},
		{func() error { return s.SetDraining(ctx, h, by, false, false) }, models.HostQuarantined},
		{func() error { _, err := s.EndQuarantine(ctx, h); return err }, models.HostReady}, {beat, models.HostReady},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		found, err := s.PageOfHosts(ctx, db.HostFilter{States: []models.HostState{step.want}, Limit: 10})
		at := -1
		for j := range found {
			if found[j].ID == h {
				at = j
			}
		}
		if err != nil || at < 0 || found[at].State() != step.want {
			t.Fatalf("step %d: %+v, %v; want %s", i, found, err, step.want)
		}
		now := found[at]
		if changed := now.State() != was.State(); changed != now.Since.After(was.Since) {
			t.Errorf("step %d: %s since %s, and %s since %s before", i, now.State(), now.Since, was.State(), was.Since)
		}
		was = now
	}
}
