package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// TestControlPlaneKilledDuringCreate kills a control plane at each step of a create. The next
// one brings the row and the host together.
func TestControlPlaneKilledDuringCreate(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after string // the call to the store at which it dies
		inHost        bool   // or while the host is at it
		want          models.State
		left          int // sandboxes on the host
	}{
		{name: "before the row", before: "insert", want: "", left: 0},
		{name: "after the row, before the host is asked", inHost: true, want: models.Failed, left: 0},
		{name: "after the host, before the row says so", before: string(models.Running), want: models.Running, left: 1},
		{name: "after the end", after: string(models.Running), want: models.Running, left: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dying := &mortal{Store: r.store, diesBefore: c.before, diesAfter: c.after}
			first := r.start(dying, Limits{Create: 2 * time.Second}, Pace{})
			if c.inHost { // it dies, its connection breaks, and the host gives up
				r.sim.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error {
					dying.dead.Store(true)
					first.cancel()
					<-ctx.Done()
					return ctx.Err()
				}, nil)
			}
			if _, err := first.Create(t.Context(), r.request(), Request{Template: "minimal"}); err == nil {
				t.Fatal("a dead control plane has answered")
			}
			first.end()
			if c.want == "" {
				all, err := r.store.List(t.Context(), db.Filter{Account: r.by.Account, States: []models.State{models.Starting}, Limit: 1})
				if err != nil || len(all) != 0 {
					t.Errorf("%+v, %v", all, err)
				}
				return
			}
			sb := r.only()
			if c.inHost {
				r.expire(sb.ID)
			}
			r.start(r.store, Limits{}, quick)
			now := r.becomes(sb.ID, c.want)
			if c.want == models.Failed && !strings.HasPrefix(now.Reason, "lost: ") {
				t.Errorf("reason %q", now.Reason)
			}
			r.holds(c.left)
		})
	}
}

// TestControlPlaneKilledDuringDestroy: whatever the step, the sandbox ends as stopped.
func TestControlPlaneKilledDuringDestroy(t *testing.T) {
	for _, c := range []struct{ name, before, after string }{
		{name: "before the host is asked", after: string(models.Stopping)},
		{name: "after the host, before the row says so", before: string(models.Stopped)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dying := &mortal{Store: r.store}
			first := r.start(dying, Limits{}, Pace{})
			sb := r.create(first)
			dying.diesBefore, dying.diesAfter = c.before, c.after
			if _, err := first.Destroy(t.Context(), r.request(), sb.ID); err == nil {
				t.Fatal("a dead control plane has answered")
			}
			first.end()
			if c.after != "" {
				r.expire(sb.ID)
			}
			r.start(r.store, Limits{}, quick)
			r.becomes(sb.ID, models.Stopped)
			r.holds(0)
		})
	}
}

// expire lets the deadline of a sandbox pass.
func (r *rig) expire(sb id.Sandbox) {
	r.t.Helper()
	r.sql("UPDATE sandboxes SET deadline = now() - interval '1 second' WHERE id = '" + string(sb) + "'")
}

func TestVMFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_FAILED, "guest panic: out of memory")
	now := r.becomes(sb.ID, models.Failed)
	if now.Reason != "guest panic: out of memory" {
		t.Errorf("reason %q", now.Reason)
	}
	if _, err := c.Guest(t.Context(), r.by.Account, sb.ID); models.CodeOf(err) != models.Precondition ||
		!strings.Contains(models.AsError(err).Hint, "out of memory") {
		t.Errorf("use of a failed sandbox: %v", err)
	}
	time.Sleep(5 * quick.Settle) // what is left of it is kept, for its logs
	if r.sim.State(string(sb.ID)) != pb.SandboxState_SANDBOX_STATE_FAILED {
		t.Error("the remains of a failed VM were removed before it was destroyed")
	}
	if _, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil {
		t.Error(err)
	}
	r.holds(0)
}

// TestLost: a sandbox that the host has lost, whether or not it says so, is lost here too.
func TestLost(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	told, untold := r.create(c), r.create(c)
	r.sim.Lose(string(told.ID), false)
	r.becomes(told.ID, models.Failed)
	r.sim.Lose(string(untold.ID), true)
	r.sim.Kill()
	time.Sleep(10 * quick.Tick) // an agent that is away is no reason to take anything for lost
	if sb, err := r.store.Sandbox(t.Context(), r.by.Account, untold.ID); err != nil || sb.State != models.Running {
		t.Errorf("while the agent is away: %s, %v", sb.State, err)
	}
	r.sim.Restart()
	if now := r.becomes(untold.ID, models.Failed); !strings.HasPrefix(now.Reason, "lost: ") {
		t.Errorf("reason %q", now.Reason)
	}
}

// TestAgentRestart: the sandboxes go on, and the restart is noted.
func TestAgentRestart(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	for range 3 {
		r.sim.Kill()
		r.eventually("the agent's end is seen", func() bool { return !c.Fleet.Status()[0].Up })
		r.sim.Restart()
		r.eventually("the agent is back", func() bool { return c.Fleet.Status()[0].Up })
	}
	if now := r.becomes(sb.ID, models.Running); now.Generation != sb.Generation {
		t.Errorf("the sandbox was changed: %+v", now)
	}
	hosts, err := r.store.Hosts(t.Context())
	if err != nil || hosts[0].Connects < 4 {
		t.Errorf("hosts %+v, %v; want 4 connects", hosts, err)
	}
}

// TestAgentHangs: an agent that holds its connections open and answers nothing counts as
// unreachable, and as reachable again once it answers.
func TestAgentHangs(t *testing.T) {
	r := newRig(t)
	c := r.boot(r.store, Limits{}, Pace{}, 20*time.Millisecond, r.sim.Address())
	r.eventually("the host is reachable", func() bool { return c.Fleet.Status()[0].Up })
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.AgentVersion = "next" })
	r.eventually("what the host says of itself is recorded", func() bool {
		hosts, err := r.store.Hosts(t.Context())
		return err == nil && hosts[0].AgentVersion == "next" && hosts[0].Connects == 1
	})
	r.sim.Hang(true)
	r.eventually("the host is unreachable", func() bool { return !c.Fleet.Status()[0].Up })
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Unavailable {
		t.Errorf("create on a host that hangs: %v", err)
	}
	r.sim.Hang(false)
	r.eventually("the host is reachable again", func() bool { return c.Fleet.Status()[0].Up })
	r.create(c)
}

func TestOrphanIsRemoved(t *testing.T) {
	r := newRig(t)
	r.sim.Put("sb-dead0000", pb.SandboxState_SANDBOX_STATE_RUNNING, "")
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.sim.Put("sb-dead0001", pb.SandboxState_SANDBOX_STATE_FAILED, "x")
	r.holds(1)
	r.becomes(sb.ID, models.Running)
}

// TestHostReplaced: another host answers at the address. What the old one held is lost, a
// destroy that waited for it is done, and the new one is used.
func TestHostReplaced(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Destroy: time.Millisecond, Grace: time.Millisecond}, quick)
	running, stopping := r.create(c), r.create(c)
	r.sim.Kill()
	if _, err := c.Destroy(t.Context(), r.request(), stopping.ID); err == nil {
		t.Error("destroyed without a host")
	}
	r.sim.Lose(string(running.ID), true)
	r.sim.Lose(string(stopping.ID), true)
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = "host-0000ffff" })
	r.sim.Restart()
	if now := r.becomes(running.ID, models.Failed); !strings.Contains(now.Reason, "replaced") {
		t.Errorf("reason %q", now.Reason)
	}
	r.becomes(stopping.ID, models.Stopped)
	if sb := r.create(c); sb.Host != "host-0000ffff" {
		t.Errorf("a new sandbox was placed on %s", sb.Host)
	}
}

// TestReplicasTakeTurns: when the replica that reconciles ends, another one does.
func TestReplicasTakeTurns(t *testing.T) {
	r := newRig(t)
	a := r.start(r.store, Limits{}, quick)
	b := r.start(r.store, Limits{}, quick)
	sb := r.create(b)
	a.end()
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_FAILED, "x")
	r.becomes(sb.ID, models.Failed)
}

// TestDatabaseGoesAway cuts all connections while sandboxes come and go: whatever a caller
// was told, rows and host agree in the end.
func TestDatabaseGoesAway(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	for range 10 {
		sb := r.create(c)
		r.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		if gone, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
			t.Errorf("destroy: %+v, %v", gone, err)
		}
	}
	sb := r.create(c)
	r.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_FAILED, "x")
	r.becomes(sb.ID, models.Failed)
	refused := 0 // in a row: once may be the end of our own last lease
	r.eventually("the reconciler has its lease again", func() bool {
		lease, err := r.store.Lead(t.Context())
		if lease != nil {
			lease.Release(t.Context())
			refused = 0
		}
		if err == nil && lease == nil {
			refused++
		}
		return refused == 30
	})
}

// TestWhatIsNotKnownIsNotBelieved: after the agent is lost nothing is known of its host.
func TestWhatIsNotKnownIsNotBelieved(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	h := c.Fleet.all()[0]
	if _, _, ok := h.view(); !ok {
		t.Error("nothing is known of a host that is connected")
	}
	r.sim.Kill()
	r.eventually("the agent's end is seen", func() bool { return !c.Fleet.Status()[0].Up })
	if _, _, ok := h.view(); ok {
		t.Error("a view of a host that is lost is believed")
	}
}
