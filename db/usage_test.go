package db_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

// future is later than anything that a test does.
var future = time.Now().AddDate(10, 0, 0)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// periods returns all periods of an account in the order in which they end.
func periods(t *testing.T, s *db.Store, account id.Account) (all []usage.Period) {
	t.Helper()
	add := func(p usage.Period) { all = append(all, p) }
	if err := s.UsagePeriods(t.Context(), account, time.Time{}, future, func() func(usage.Period) { return add }); err != nil {
		t.Fatal(err)
	}
	return all
}

// through takes a sandbox through states.
func through(t *testing.T, s *db.Store, sb models.Sandbox, states ...models.State) models.Sandbox {
	t.Helper()
	for _, state := range states {
		var err error
		if sb, err = s.Transition(t.Context(), to(sb, state)); err != nil {
			t.Fatal(err)
		}
	}
	return sb
}

// TestUsageFollowsStates: periods are of the right kind and size, and begin and end when the events say.
func TestUsageFollowsStates(t *testing.T) {
	s, account, _ := open(t)
	sb := create(t, s, account)
	if all := periods(t, s, account); len(all) != 0 {
		t.Errorf("it does not run yet: %+v", all)
	}
	sb = through(t, s, sb, models.Running, models.Pausing, models.Paused, models.Resuming, models.Running, models.Pausing, models.Running, models.Pausing, models.Paused,
		models.Hibernating, models.Hibernated, models.Stopping, models.Stopped)
	events, err := s.Events(t.Context(), sb.ID, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	run := usage.Period{Account: account, Sandbox: sb.ID, Kind: usage.Running, VCPUs: 1, MemoryMiB: 256}
	sleep := usage.Period{Account: account, Sandbox: sb.ID, Kind: usage.Paused, StoredMiB: 768}
	away := usage.Period{Account: account, Sandbox: sb.ID, Kind: usage.Hibernated, StoredMiB: 768}
	var want []usage.Period
	for _, p := range []struct {
		period     usage.Period
		begin, end int // indexes of events: pending is 0, starting 1
	}{{run, 2, 4}, {sleep, 4, 6}, {run, 6, 10}, {sleep, 10, 12}, {away, 12, 13}} {
		p.period.Begin, p.period.End = events[p.begin].At, events[p.end].At
		want = append(want, p.period)
	}
	got := periods(t, s, account)
	for i := range got {
		got[i].ID = 0
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("periods:\n%s", diff)
	}
}

// meter counts the running time of one sandbox, as it is to be counted.
type meter struct {
	kind  string
	begun time.Time // of what it is in; while it is in nothing, where that before has ended
	ran   time.Duration
}

func (m *meter) becomes(state models.State, at time.Time) {
	kind := map[models.State]string{models.Running: "run", models.Pausing: "run", models.Paused: "sleep"}[state]
	if kind == m.kind {
		return
	}
	if at.Before(m.begun) { // the clock was set back
		at = m.begun
	}
	if m.kind == "run" {
		m.ran += at.Sub(m.begun)
	}
	m.kind, m.begun = kind, at
}

// TestUsageIsWhatEventsSay: whatever happens to sandboxes, and however the clock is set meanwhile, no second is lost or counted twice.
func TestUsageIsWhatEventsSay(t *testing.T) {
	s, account, url := open(t)
	conn := connect(t, url)
	rapid.Check(t, func(rt *rapid.T) {
		sb := create(t, s, account)
		m := &meter{}
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var batch pgx.Batch
		states := rapid.SliceOfN(rapid.SampledFrom([]models.State{models.Running, models.Pausing, models.Paused, models.Failed}), 1, 12).Draw(rt, "states")
		for i, state := range append(states, models.Stopped) {
			at = at.Add(rapid.SampledFrom([]time.Duration{0, time.Microsecond, time.Hour, -time.Minute}).Draw(rt, "step"))
			batch.Queue(`INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation, at)
				SELECT account_id, sandbox_id, to_state, $2::sandbox_state, '', '', '', generation + 1, $4 FROM sandbox_events WHERE sandbox_id = $1 AND generation = $3`,
				string(sb.ID), string(state), sb.Generation+int64(i), at)
			m.becomes(state, at)
		}
		if err := conn.SendBatch(t.Context(), &batch).Close(); err != nil {
			t.Fatal(err)
		}
		var all usage.Amount
		var last time.Time
		for _, p := range periods(t, s, account) {
			if p.Sandbox != sb.ID {
				continue
			}
			if p.Begin.Before(last) || p.End.Before(p.Begin) {
				rt.Fatalf("it overlaps the one before, lasts or has no length: %+v", p)
			}
			last = p.End
			all = all.Plus(p.In(p.Begin, p.End))
		}
		if all.VCPU.Seconds*1e6+all.VCPU.Micros != m.ran.Microseconds() {
			rt.Fatalf("%+v, not %s", all.VCPU, m.ran)
		}
	})
}

// TestUsageOfSnapshots: a snapshot is counted from when it is ready until its end is asked for.
func TestUsageOfSnapshots(t *testing.T) {
	s, account, url := open(t)
	conn := connect(t, url)
	sb := through(t, s, create(t, s, account), models.Running)
	of := func(snap string) (found []usage.Period) {
		for _, p := range periods(t, s, account) {
			if string(p.Snapshot) == snap {
				found = append(found, p)
			}
		}
		return found
	}
	for i, end := range []string{"UPDATE snapshots SET state = 'deleting'", "UPDATE snapshots SET state = 'error'", "DELETE FROM snapshots"} {
		snap := fmt.Sprintf("snap-0000000%d", i)
		exec(t, conn, `INSERT INTO snapshots (id, account_id, host_id, sandbox_id, name, template, vcpus, memory_mib, disk_mib, network, state, operation)
			VALUES ($1, $2, 'host-00000001', $3, 'n', 'minimal', 1, 256, 512, '{}', 'creating', '')`, snap, string(account), string(sb.ID))
		if all := of(snap); len(all) != 0 {
			t.Errorf("of one that is not ready: %+v", all)
		}
		exec(t, conn, "UPDATE snapshots SET state = 'ready' WHERE state = 'creating'")
		exec(t, conn, "UPDATE snapshots SET state = 'ready' WHERE state = 'ready'")
		if all := of(snap); len(all) != 1 || all[0].Kind != usage.Snapshot || all[0].StoredMiB != 768 || !all[0].End.IsZero() || all[0].Sandbox != sb.ID {
			t.Errorf("of one that is ready: %+v", all)
		}
		exec(t, conn, end)
		exec(t, conn, "DELETE FROM snapshots")
		if all := of(snap); len(all) != 1 || all[0].End.IsZero() {
			t.Errorf("after %s: %+v", end, all)
		}
	}
	if all := of(""); len(all) != 1 || !all[0].End.IsZero() {
		t.Errorf("the sandbox runs on: %+v", all)
	}
}

// TestUsagePeriodsOfATime: they are those of which something lies in it, page after page, and of one moment.
func TestUsagePeriodsOfATime(t *testing.T) {
	s, account, url := open(t)
	conn := connect(t, url)
	sb := create(t, s, account)
	exec(t, conn, `INSERT INTO usage_periods (account_id, sandbox_id, kind, stored_mib, begun_at, ended_at)
		SELECT $1, $2, 'paused', 1, timestamptz '2026-01-01T00:00:00Z' + n * interval '1 second', timestamptz '2026-01-01T00:00:01Z' + n * interval '1 second' FROM generate_series(0, 11999) AS n`, string(account), string(sb.ID))
	through(t, s, sb, models.Running)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		from, to time.Time
		want     int
	}{
		{begin, begin.Add(time.Second), 1}, {begin.Add(time.Second), begin.Add(3 * time.Second), 2}, {begin.Add(1500 * time.Millisecond), begin.Add(2001 * time.Millisecond), 2},
		{begin, begin.Add(12000 * time.Second), 12000}, {begin, future, 12001}, {begin.Add(12000 * time.Second), future, 1}, {begin.Add(-time.Hour), begin, 0},
	} {
		seen := map[int64]bool{}
		err := s.UsagePeriods(t.Context(), account, c.from, c.to, func() func(usage.Period) {
			return func(p usage.Period) {
				if len(seen) == 0 { // it ends between two pages
					exec(t, conn, "UPDATE usage_periods SET ended_at = clock_timestamp() WHERE ended_at IS NULL")
				}
				seen[p.ID] = true
			}
		})
		exec(t, conn, "UPDATE usage_periods SET ended_at = NULL WHERE kind = 'running'")
		if err != nil || len(seen) != c.want {
			t.Errorf("from %s to %s: %d, want %d, %v", c.from, c.to, len(seen), c.want, err)
		}
	}
}

// TestUsageBeforeItWasKept: the migration counts what events tell of the time before, also in a database that has taken later steps.
func TestUsageBeforeItWasKept(t *testing.T) {
	s, account, url := open(t)
	ended := through(t, s, create(t, s, account), models.Running, models.Pausing, models.Paused, models.Hibernating, models.Hibernated, models.Resuming, models.Running, models.Stopping, models.Stopped)
	lasts := through(t, s, create(t, s, account), models.Running)
	create(t, s, account)
	total := func() map[id.Sandbox]usage.Amount {
		sums := map[id.Sandbox]usage.Amount{}
		for _, p := range periods(t, s, account) {
			sums[p.Sandbox] = sums[p.Sandbox].Plus(p.In(time.Time{}, future))
		}
		return sums
	}
	before := total()
	text, err := os.ReadFile("migrations/00010_usage.sql")
	if err != nil {
		t.Fatal(err)
	}
	_, down, _ := strings.Cut(string(text), "-- +goose Down")
	conn := connect(t, url)
	exec(t, conn, down)
	exec(t, conn, "DELETE FROM goose_db_version WHERE version_id = 10")
	if steps, err := db.MigrateUp(t.Context(), url); err != nil || steps != 1 {
		t.Fatalf("up took %d steps, %v", steps, err)
	}
	if diff := cmp.Diff(before, total()); diff != "" || len(before) != 2 {
		t.Errorf("before and after:\n%s", diff)
	}
	through(t, s, lasts, models.Stopping)
	for _, p := range periods(t, s, account) {
		if p.End.IsZero() {
			t.Errorf("nothing runs any more, and this lasts: %+v (the first was %s)", p, ended.ID)
		}
	}
}
