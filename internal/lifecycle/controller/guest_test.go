package controller

import (
	"fmt"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// guest returns the client of a sandbox's envd.
func (r *rig) guest(c *replica, sb id.Sandbox) *envdclient.Client {
	r.t.Helper()
	g, err := c.Guest(r.t.Context(), r.by.Account, sb)
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

// sleeper starts a program that runs until it is killed.
func (r *rig) sleeper(g *envdclient.Client) *envdclient.Exec {
	r.t.Helper()
	e, err := g.Exec(r.t.Context(), envdclient.Command{Cmd: "sleep", Args: []string{"600"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = e.Close() })
	if _, err := e.Next(); err != nil { // it has started
		r.t.Fatal(err)
	}
	return e
}

// TestGuestConnectionsAreUsedAgain: the second request to a sandbox pays for none.
func TestGuestConnectionsAreUsedAgain(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	for range 5 {
		if _, err := r.guest(c, sb.ID).Metrics(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if now, ever := r.sim.Tunnels(); now != 1 || ever != 1 {
		t.Errorf("%d tunnels are open, and %d were opened", now, ever)
	}
	c.end()
	r.eventually("the tunnels end with the control plane", func() bool {
		now, _ := r.sim.Tunnels()
		return now == 0
	})
}

// TestGuestEndsWithItsSandbox: who uses it is told, and there is none any more.
func TestGuestEndsWithItsSandbox(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	e := r.sleeper(r.guest(c, sb.ID))
	if _, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Next(); models.CodeOf(err) != models.Unavailable {
		t.Errorf("a program of a sandbox that was destroyed: %v", err)
	}
	if _, err := c.Guest(t.Context(), r.by.Account, sb.ID); models.CodeOf(err) != models.Precondition {
		t.Errorf("the guest of a sandbox that was destroyed: %v", err)
	}
	if n := len(c.guests.kept); n != 0 {
		t.Errorf("%d clients are kept", n)
	}
}

// TestGuestOfAHostThatIsAway: the caller is told so, and is served when the host is back.
func TestGuestOfAHostThatIsAway(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	g := r.guest(c, sb.ID)
	if _, err := g.Metrics(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.sim.Kill()
	if _, err := g.Metrics(t.Context()); models.CodeOf(err) != models.Unavailable {
		t.Errorf("without its host: %v", err)
	}
	r.sim.Restart()
	r.eventually("the guest answers again", func() bool {
		_, err := r.guest(c, sb.ID).Metrics(t.Context())
		return err == nil
	})
}

// TestIdleGuestsAreDropped, with what is under way going on.
func TestIdleGuestsAreDropped(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	g := r.guest(c, sb.ID)
	e := r.sleeper(g)
	if _, err := g.Metrics(t.Context()); err != nil { // in a second connection, which is then idle
		t.Fatal(err)
	}
	if now, _ := r.sim.Tunnels(); now != 2 {
		t.Fatalf("%d tunnels are open", now)
	}
	later := time.Now().Add(guestIdle + time.Second)
	another := c.guests.of(models.Sandbox{ID: "sb-00000002", Host: sb.Host}, later)
	if len(c.guests.kept) != 1 || c.guests.of(models.Sandbox{ID: "sb-00000002", Host: sb.Host}, later) != another {
		t.Errorf("%d clients are kept", len(c.guests.kept))
	}
	r.eventually("the idle connection is closed", func() bool {
		now, _ := r.sim.Tunnels()
		return now == 1
	})
	if err := e.Signal(t.Context(), 9); err != nil {
		t.Error(err)
	}
	if event, err := e.Next(); err != nil || event != (envdclient.Exited{Code: -1, Signal: 9}) {
		t.Errorf("the program under way: %v, %v", event, err)
	}
}

// TestIdleConnectionsEndWithTheWatch, and only they: an agent that is about to end waits for them.
func TestIdleConnectionsEndWithTheWatch(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	g := r.guest(c, sb.ID)
	r.sleeper(g)
	if _, err := g.Metrics(t.Context()); err != nil { // in a second connection, which is then idle
		t.Fatal(err)
	}
	r.sim.EndWatches()
	r.eventually("the idle connection is closed", func() bool {
		now, _ := r.sim.Tunnels()
		return now == 1
	})
	if _, err := g.Metrics(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGuestsAreBounded: of too many the one goes that was not asked for the longest.
func TestGuestsAreBounded(t *testing.T) {
	c := &Controller{}
	g := &guests{dial: c.dial, kept: map[id.Sandbox]*guest{}}
	begin := time.Now()
	name := func(i int) id.Sandbox { return id.Sandbox(fmt.Sprintf("sb-%08x", i)) }
	on := func(sb id.Sandbox, host id.Host) models.Sandbox { return models.Sandbox{ID: sb, Host: host} }
	for i := range maxGuests {
		g.of(on(name(i), "host-00000001"), begin.Add(time.Duration(i)*time.Microsecond))
	}
	first := g.of(on(name(0), "host-00000001"), begin.Add(time.Second))
	g.of(on(name(maxGuests), "host-00000001"), begin.Add(time.Second))
	if len(g.kept) != maxGuests || g.kept[name(1)] != nil || g.kept[name(0)] == nil {
		t.Errorf("%d are kept; the oldest %v, the one that was asked for again %v", len(g.kept), g.kept[name(1)], g.kept[name(0)])
	}
	if g.of(on(name(0), "host-00000002"), begin.Add(time.Second)) == first {
		t.Error("a sandbox that has moved has its old client")
	}
	g.close()
	if g.of(on(name(0), "host-00000001"), begin.Add(time.Second)); len(g.kept) != 0 {
		t.Errorf("%d are kept after the end", len(g.kept))
	}
}
