package controller

import (
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestCompare names every pair of a row's state and what the host has of it.
func TestCompare(t *testing.T) {
	now := time.Now()
	p := patience{settle: 5 * time.Second, grace: 30 * time.Second}
	const absent = hostclient.State("")
	type when struct{ overdue, forsaken, settled bool }
	fresh, settled, overdue := when{}, when{settled: true}, when{overdue: true, settled: true}
	forsaken, forsakenNow := when{forsaken: true, settled: true}, when{forsaken: true}
	for _, c := range []struct {
		row  models.State
		host hostclient.State
		when
		want remedy
	}{
		{models.Running, hostclient.Running, settled, ""},
		{models.Running, hostclient.Starting, settled, ""},
		{models.Running, hostclient.Stopping, settled, ""},
		{models.Running, hostclient.Failed, fresh, markFail},
		{models.Running, absent, fresh, ask},
		{models.Running, hostclient.Paused, fresh, ""}, // who asked for it will say so
		{models.Running, hostclient.Paused, settled, ask},
		{models.Running, hostclient.Pausing, settled, ""},

		{models.Pausing, hostclient.Running, settled, ""},
		{models.Pausing, hostclient.Running, overdue, ask},
		{models.Pausing, hostclient.Running, forsaken, ask},
		{models.Pausing, hostclient.Running, forsakenNow, ""},
		{models.Pausing, hostclient.Pausing, settled, ""},
		{models.Pausing, hostclient.Pausing, overdue, ask},
		{models.Pausing, hostclient.Paused, fresh, ""},
		{models.Pausing, hostclient.Paused, settled, ask},
		{models.Pausing, hostclient.Failed, fresh, ask},
		{models.Pausing, absent, settled, ""},
		{models.Pausing, absent, overdue, ask},

		{models.Paused, hostclient.Paused, settled, ""},
		{models.Paused, hostclient.Resuming, settled, ""},
		{models.Paused, hostclient.Running, fresh, ""},
		{models.Paused, hostclient.Running, settled, ask},
		{models.Paused, hostclient.Failed, fresh, markFail},
		{models.Paused, absent, fresh, ask},

		{models.Resuming, hostclient.Paused, settled, ""},
		{models.Resuming, hostclient.Paused, overdue, ask},
		{models.Resuming, hostclient.Paused, forsaken, ask},
		{models.Resuming, hostclient.Resuming, overdue, ask},
		{models.Resuming, hostclient.Running, fresh, ""},
		{models.Resuming, hostclient.Running, settled, ask},
		{models.Resuming, hostclient.Failed, fresh, ask},
		{models.Resuming, absent, overdue, ask},

		{models.Hibernating, hostclient.Paused, settled, ""},
		{models.Hibernating, hostclient.Storing, settled, ""},
		{models.Hibernating, hostclient.Storing, overdue, ask},
		{models.Hibernating, hostclient.Paused, forsaken, ask},
		{models.Hibernating, hostclient.Failed, fresh, ask},
		{models.Hibernating, absent, settled, ""},
		{models.Hibernating, absent, overdue, ask},

		{models.Starting, hostclient.Starting, settled, ""},
		{models.Starting, hostclient.Starting, overdue, ask},
		{models.Starting, hostclient.Starting, forsaken, ""},
		{models.Starting, hostclient.Starting, when{overdue: true, forsaken: true, settled: true}, ask},
		{models.Starting, hostclient.Running, fresh, ""},
		{models.Starting, hostclient.Running, settled, markStart},
		{models.Starting, hostclient.Running, overdue, markStart},
		{models.Starting, hostclient.Failed, settled, ""},
		{models.Starting, hostclient.Failed, overdue, ask},
		{models.Starting, absent, settled, ""},
		{models.Starting, absent, overdue, ask},
		{models.Starting, absent, forsaken, ask},
		{models.Starting, absent, forsakenNow, ""},

		{models.Stopping, hostclient.Running, settled, ""},
		{models.Stopping, hostclient.Running, overdue, finish},
		{models.Stopping, hostclient.Running, forsaken, finish},
		{models.Stopping, hostclient.Running, forsakenNow, ""},
		{models.Stopping, hostclient.Failed, overdue, finish},
		{models.Stopping, absent, fresh, ""},
		{models.Stopping, absent, settled, finish},

		{models.Failed, hostclient.Running, fresh, ""},
		{models.Failed, hostclient.Running, settled, remove},
		{models.Failed, hostclient.Starting, settled, remove},
		{models.Failed, hostclient.Stopping, settled, ""},
		{models.Failed, hostclient.Failed, settled, ""},
		{models.Failed, hostclient.Paused, settled, ""},
		{models.Failed, absent, settled, ""},

		{models.Stopped, hostclient.Running, fresh, ""},
		{models.Stopped, hostclient.Running, settled, remove},
		{models.Stopped, hostclient.Failed, settled, remove},
		{models.Stopped, hostclient.Stopping, settled, ""},
		{models.Stopped, hostclient.Paused, settled, remove},
		{models.Stopped, absent, settled, ""},
	} {
		row := db.Row{ID: "sb-00000001", Host: "host-00000001", State: c.row, Overdue: c.overdue, Forsaken: c.forsaken}
		seen := map[id.Sandbox]sighting{}
		s := sighting{Sandbox: hostclient.Sandbox{ID: row.ID, State: c.host}, since: now}
		if c.settled {
			row.Age, s.since = 6*time.Second, now.Add(-6*time.Second)
		}
		if c.host != absent {
			seen[row.ID] = s
		}
		gaps := plan("host-00000001", []db.Row{row}, seen, now, p)
		var got remedy
		if len(gaps) == 1 {
			got = gaps[0].remedy
		}
		if got != c.want || len(gaps) > 1 {
			t.Errorf("row %s, host %q, %+v: %+v, want %q", c.row, c.host, c.when, gaps, c.want)
		}
	}
}

// TestPlanCold: who was to have a sandbox stored or fetched may have gone; what has come back, or has left, is not what a host still holds.
func TestPlanCold(t *testing.T) {
	now := time.Now()
	stored := &models.Archive{Key: "k"}
	for _, c := range []struct {
		name  string
		row   db.Row
		seen  hostclient.Sandbox
		since time.Duration // that the host has had it so, and the row its state
		want  remedy
	}{
		{"stored", db.Row{State: models.Hibernating}, hostclient.Sandbox{State: hostclient.Paused, Archive: stored}, 6 * time.Second, ask},
		{"stored just now", db.Row{State: models.Hibernating}, hostclient.Sandbox{State: hostclient.Paused, Archive: stored}, time.Second, ""},
		{"not asked to store", db.Row{State: models.Hibernating}, hostclient.Sandbox{State: hostclient.Paused}, 31 * time.Second, ask},
		{"not asked to fetch yet", db.Row{State: models.Resuming, Cold: true}, hostclient.Sandbox{}, 6 * time.Second, ""},
		{"not asked to fetch", db.Row{State: models.Resuming, Cold: true}, hostclient.Sandbox{}, 31 * time.Second, ask},
		{"fetching", db.Row{State: models.Resuming, Cold: true}, hostclient.Sandbox{State: hostclient.Fetching}, 31 * time.Second, ""},
		{"fetched, not asked to resume", db.Row{State: models.Resuming, Cold: true}, hostclient.Sandbox{State: hostclient.Paused}, 6 * time.Second, ask},
		{"not asked to resume", db.Row{State: models.Resuming}, hostclient.Sandbox{State: hostclient.Paused}, 31 * time.Second, ""},
		{"a copy is left", db.Row{State: models.Hibernated, Host: "elsewhere"}, hostclient.Sandbox{State: hostclient.Paused, Archive: stored}, 31 * time.Second, letGo},
		{"a copy is left for a moment", db.Row{State: models.Hibernated, Host: "elsewhere"}, hostclient.Sandbox{State: hostclient.Paused, Archive: stored}, time.Second, ""},
		{"it runs elsewhere", db.Row{State: models.Running, Host: "elsewhere"}, hostclient.Sandbox{State: hostclient.Running}, 31 * time.Second, letGo},
		{"it is gone elsewhere", db.Row{State: models.Stopped, Host: "elsewhere"}, hostclient.Sandbox{State: hostclient.Running}, 31 * time.Second, remove},
	} {
		c.row.ID, c.row.Age = "sb-00000001", c.since
		if c.row.Host == "" {
			c.row.Host = "host-00000001"
		}
		seen := map[id.Sandbox]sighting{}
		if c.seen.State != "" {
			seen[c.row.ID] = sighting{Sandbox: c.seen, since: now.Add(-c.since)}
		}
		gaps := plan("host-00000001", []db.Row{c.row}, seen, now, patience{settle: 5 * time.Second, grace: 30 * time.Second})
		var got remedy
		if len(gaps) == 1 {
			got = gaps[0].remedy
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestPlanNetwork: a host that enforces an older policy is told of the newer one.
func TestPlanNetwork(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		state        models.State
		host         hostclient.State
		wanted, seen int64
		want         remedy
	}{
		{models.Running, hostclient.Running, 2, 2, ""},
		{models.Running, hostclient.Running, 2, 1, enforce},
		{models.Running, hostclient.Running, 1, 0, enforce}, // by an agent that knew of no policies
		{models.Running, hostclient.Running, 2, 3, ""},      // the row is older than the change
		{models.Running, hostclient.Failed, 2, 1, markFail},
		{models.Paused, hostclient.Paused, 2, 1, enforce},
		{models.Starting, hostclient.Running, 2, 1, ""},
		{models.Stopping, hostclient.Running, 2, 1, ""},
	} {
		row := db.Row{ID: "sb-00000001", Host: "host-00000001", State: c.state, NetworkGeneration: c.wanted}
		s := sighting{Sandbox: hostclient.Sandbox{ID: row.ID, State: c.host, NetworkGeneration: c.seen}, since: now}
		var got remedy
		for _, g := range plan("host-00000001", []db.Row{row}, map[id.Sandbox]sighting{row.ID: s}, now, patience{settle: time.Second, grace: time.Second}) {
			got = g.remedy
		}
		if got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// TestPlanStrays: what a host has and no row wants there is removed, after the grace.
func TestPlanStrays(t *testing.T) {
	now := time.Now()
	p := patience{settle: 5 * time.Second, grace: 30 * time.Second}
	seen := map[id.Sandbox]sighting{}
	add := func(sb id.Sandbox, state hostclient.State, age time.Duration) {
		seen[sb] = sighting{Sandbox: hostclient.Sandbox{ID: sb, State: state}, since: now.Add(-age)}
	}
	add("sb-00000001", hostclient.Running, 31*time.Second)  // no row
	add("sb-00000002", hostclient.Running, 29*time.Second)  // no row yet
	add("sb-00000003", hostclient.Stopping, 31*time.Second) // being removed already
	add("sb-00000004", hostclient.Running, 31*time.Second)  // belongs on another host
	rows := []db.Row{{ID: "sb-00000004", Host: "host-00000002", State: models.Running}}
	removed := map[id.Sandbox]bool{}
	for _, g := range plan("host-00000001", rows, seen, now, p) {
		if g.remedy != remove && g.remedy != letGo {
			t.Errorf("%s: %s", g.id, g.remedy)
		}
		removed[g.id] = true
	}
	if len(removed) != 2 || !removed["sb-00000001"] || !removed["sb-00000004"] {
		t.Errorf("removed %v, want sb-00000001 and sb-00000004", removed)
	}
}
