package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// all returns the sandboxes in a state.
func (r *rig) all(state models.State) []models.Sandbox {
	r.t.Helper()
	all, err := r.store.List(r.t.Context(), db.Filter{Account: r.by.Account, Limit: 100, States: []models.State{state}})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// parent makes a sandbox that is worth being forked.
func (r *rig) parent(c *replica) models.Sandbox {
	r.t.Helper()
	sb, err := c.Create(r.t.Context(), r.request(), Request{
		Template: "minimal", Size: models.Size{MemoryMiB: 512}, Name: "n", Metadata: map[string]string{"a": "b"}, ManualResume: true,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return sb
}

// TestFork: children are like their parent, which stays as it is, running or paused; each is a sandbox of its own.
func TestFork(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	parent := r.parent(c)
	for _, state := range []models.State{models.Running, models.Paused} {
		children, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 3})
		if err != nil || len(children) != 3 {
			t.Fatalf("fork of one that is %s: %+v, %v", state, children, err)
		}
		for _, child := range children {
			if child.State != models.Running || child.Parent != parent.ID || child.Host != parent.Host || child.Size != parent.Size || child.Name != "n" ||
				child.Metadata["a"] != "b" || child.AutoResume || child.Resumed == nil || child.Network.Generation != 1 || len(child.Steps) == 0 {
				t.Errorf("a child is %+v", child)
			}
			r.path(child.ID, models.Pending, models.Starting, models.Running)
			if _, err := c.Destroy(t.Context(), r.request(), child.ID); err != nil {
				t.Error(err)
			}
		}
		r.becomes(parent.ID, state)
		if state == models.Running {
			if _, err := c.Pause(t.Context(), r.request(), parent.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.holds(1)
	mine, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 1, Metadata: map[string]string{"x": "y"}})
	if err != nil || mine[0].Metadata["x"] != "y" || mine[0].Metadata["a"] != "" {
		t.Errorf("with metadata of its own a child is %+v, %v", mine, err)
	}
}

// TestForkNeedsRoomForAll: where there is none for one of them, nothing is left.
func TestForkNeedsRoomForAll(t *testing.T) {
	r := newRig(t)
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.MemoryMib, i.OverheadMib = 2048, 100 })
	c := r.start(r.store, Limits{}, Pace{})
	parent := r.parent(c)
	if _, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 3}); models.CodeOf(err) != models.Exhausted || !strings.Contains(err.Error(), "1836 MiB of memory") {
		t.Errorf("three more of 612 MiB on 2048: %v", err)
	}
	if len(r.all(models.Stopped))+len(r.all(models.Starting)) != 0 {
		t.Error("a fork that was refused has left rows")
	}
	if _, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 2}); err != nil {
		t.Errorf("two more: %v", err)
	}
	r.holds(3)
}

// TestForkThatFails: the children are stopped, and the error says why.
func TestForkThatFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Create: 5 * time.Second}, quick)
	parent := r.parent(c)
	r.sim.OnFork(func(context.Context, *pb.ForkSandboxRequest) error {
		return models.Errorf(models.Exhausted, "the host's disk is full")
	}, nil)
	if _, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 2}); models.CodeOf(err) != models.Exhausted || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("fork: %v", err)
	}
	r.unforked(parent, 2)
	r.sim.OnFork(func(context.Context, *pb.ForkSandboxRequest) error {
		go r.sim.Kill()
		time.Sleep(time.Second)
		return nil
	}, nil)
	if _, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 2}); models.CodeOf(err) != models.Unavailable {
		t.Errorf("its host goes away: %v", err)
	}
	r.sim.OnFork(nil, nil)
	r.sim.Restart() // it has made them
	r.unforked(parent, 4)
	if _, err := c.Destroy(t.Context(), r.request(), parent.ID); err != nil {
		t.Error(err)
	}
	if _, err := c.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 1}); models.CodeOf(err) != models.Precondition {
		t.Errorf("fork of one that is stopped: %v", err)
	}
}

// unforked waits until all children that there ever were are stopped, with a reason, and the parent alone is left.
func (r *rig) unforked(parent models.Sandbox, children int) {
	r.t.Helper()
	r.eventually("the children are stopped", func() bool { return len(r.all(models.Stopped)) == children })
	r.holds(1)
	r.becomes(parent.ID, models.Running)
	for _, sb := range r.all(models.Stopped) {
		events, err := r.store.Events(r.t.Context(), sb.ID, 0, 1000)
		if err != nil || !strings.Contains(events[2].Reason, "fork failed") {
			r.t.Errorf("%s went the way of %+v, %v", sb.ID, events, err)
		}
	}
}

// TestControlPlaneKilledDuringFork: before the host has made them there are none in the end, afterwards all; nothing stays on its way.
func TestControlPlaneKilledDuringFork(t *testing.T) {
	for name, c := range map[string]struct {
		dies func(*mortal)
		made bool // by the host
	}{
		"after the insert":      {func(m *mortal) { m.diesAfter = "insert" }, false},
		"before the first runs": {func(m *mortal) { m.diesBefore = string(models.Running) }, true},
		"after the first runs":  {func(m *mortal) { m.diesAfter = string(models.Running) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			peer := r.start(r.store, Limits{Create: 2 * time.Second}, Pace{})
			parent := r.parent(peer)
			m := &mortal{Store: r.store}
			c.dies(m)
			victim := r.start(m, Limits{Create: 2 * time.Second}, Pace{})
			if _, err := victim.Fork(t.Context(), r.request(), parent.ID, ForkRequest{Count: 2}); err == nil {
				t.Error("a control plane that was killed has answered")
			}
			victim.end()
			if len(r.all(models.Starting)) == 0 {
				t.Error("nothing was left under way")
			}
			r.sql("UPDATE sandboxes SET deadline = clock_timestamp() WHERE deadline IS NOT NULL")
			r.start(r.store, Limits{}, quick)
			if c.made {
				r.eventually("all children run", func() bool { return len(r.all(models.Running)) == 3 })
				r.holds(3)
				return
			}
			r.eventually("there are no children", func() bool { return len(r.all(models.Stopped)) == 2 && len(r.all(models.Starting)) == 0 })
			r.holds(1)
			if len(r.all(models.Failed)) > 0 {
				t.Error("what was never handed out is there, failed")
			}
		})
	}
}
