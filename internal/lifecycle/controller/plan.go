package controller

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// remedy is what closes a gap between a row and what its host holds.
type remedy string

const (
	ask       remedy = "ask"        // the host, about this one sandbox, and believe it
	markFail  remedy = "mark_fail"  // its VM ended unasked
	markStart remedy = "mark_start" // it runs, and who had it made has not said so
	finish    remedy = "finish"     // the destroy that somebody began
	remove    remedy = "remove"     // from the host: no row wants it there
	letGo     remedy = "let_go"     // from the host: its row says that it is elsewhere
	enforce   remedy = "enforce"    // the network policy of its row
	note      remedy = "note"       // what its host has found of its snapshot
)

// gap is a sandbox whose row and host differ.
type gap struct {
	remedy
	row  db.Row             // zero for a sandbox without a row
	seen hostclient.Sandbox // zero for one that the host does not have
	id   id.Sandbox
}

// patience is how long the reconciler waits before it takes a difference for a gap:
// operations under way make differences that pass.
type patience struct {
	settle time.Duration // between the host's doing and the row of whoever asked for it
	grace  time.Duration // for a sandbox on a host of which no row is known
}

// plan compares the rows with what host h holds at now. It is complete: a difference that
// it does not name is one that will pass, or that passes a deadline and then is named.
func plan(h id.Host, rows []db.Row, seen map[id.Sandbox]sighting, now time.Time, p patience) []gap {
	var gaps []gap
	wanted, elsewhere := map[id.Sandbox]bool{}, map[id.Sandbox]bool{}
	for _, row := range rows {
		s, here := seen[row.ID]
		if row.Host != h {
			elsewhere[row.ID] = row.State != models.Stopped
			continue
		}
		wanted[row.ID] = true
		if r := compare(row, s, here, now, p); r != "" {
			gaps = append(gaps, gap{remedy: r, row: row, seen: s.Sandbox, id: row.ID})
		}
	}
	for sb, s := range seen {
		if !wanted[sb] && now.Sub(s.since) >= p.grace && s.State != hostclient.Stopping {
			g := gap{remedy: remove, seen: s.Sandbox, id: sb}
			if elsewhere[sb] {
				g.remedy = letGo
			}
			gaps = append(gaps, g)
		}
	}
	return gaps
}

func compare(row db.Row, s sighting, here bool, now time.Time, p patience) remedy {
	settled := here && now.Sub(s.since) >= p.settle
	lasted := settled && row.Age >= p.settle
	forsaken := row.Forsaken && row.Age >= p.settle
	late := row.Overdue || forsaken
	switch row.State {
	case models.Running:
		return compareLasting(row, s, here, lasted, hostclient.Running, hostclient.Paused)
	case models.Paused:
		return compareLasting(row, s, here, lasted, hostclient.Paused, hostclient.Running)
	case models.Pausing:
		return comparePassing(late, s, here, lasted, hostclient.Paused)
	case models.Resuming:
		if row.Cold && (!here && row.Age >= p.grace || lasted && s.State == hostclient.Paused) {
			return ask // who was to have it fetched, or resumed, has gone
		}
		return comparePassing(late, s, here, lasted, hostclient.Running)
	case models.Hibernating:
		if here && s.State == hostclient.Paused && s.Archive == nil && row.Age >= p.grace && now.Sub(s.since) >= p.grace {
			return ask // likewise: who was to have it stored
		}
		return comparePassing(late, s, here, lasted && s.Archive != nil, hostclient.Paused)
	case models.Starting:
		if s.State == hostclient.Running && settled {
			return markStart
		}
		if row.Overdue || forsaken && s.State != hostclient.Starting { // what its host is at ends by itself
			return ask
		}
	case models.Stopping:
		if late || !here && row.Age >= p.settle {
			return finish
		}
	case models.Failed: // its remains are kept until it is destroyed, but it must not run
		if settled && (s.State == hostclient.Running || s.State == hostclient.Starting) && row.Age >= p.settle {
			return remove
		}
	case models.Stopped:
		if here && s.State != hostclient.Stopping && row.Age >= p.settle {
			return remove
		}
	case models.Pending, models.Hibernated: // on no host
	}
	return ""
}

// compareLasting compares a row that runs or is paused, which on its host is like. The other of the two is the end of an operation that nobody waited for.
func compareLasting(row db.Row, s sighting, here, lasted bool, like, other hostclient.State) remedy {
	switch {
	case !here:
		return ask // the row may be newer than the last message of the watch
	case s.State == hostclient.Failed:
		return markFail
	case s.State == other && lasted:
		return ask
	case s.State == like && s.NetworkGeneration < row.NetworkGeneration:
		return enforce
	case s.State == like && like == hostclient.Paused && (s.Damage != row.Damage || !sameMoment(s.Verified, row.Verified)):
		return note
	default:
		return ""
	}
}

// comparePassing compares a row on its way to where its host is already, when it has arrived; late is one whose end nobody sees to any more.
func comparePassing(late bool, s sighting, here, lasted bool, arrived hostclient.State) remedy {
	if late || here && (s.State == hostclient.Failed || lasted && s.State == arrived) {
		return ask
	}
	return ""
}

// sameMoment compares as exactly as the database keeps times.
func sameMoment(x, y time.Time) bool {
	return x.Round(time.Microsecond).Equal(y.Round(time.Microsecond))
}
