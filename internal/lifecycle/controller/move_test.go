package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const secondID = id.Host("host-00000001")

// refuse has a host fail its creates.
func refuse(h *hostsim.Host, why error) {
	h.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error { return why }, nil)
}

// pair starts a replica with two hosts, of which new sandboxes go to the first.
func (r *rig) pair(store Store, limits Limits, pace Pace) (*replica, *hostsim.Host) {
	r.t.Helper()
	hosts := r.sims(1, nil)
	hosts[1].Describe(func(i *pb.GetHostInfoResponse) { i.Vcpus, i.MemoryMib, i.DiskMib = 4, 4096, 1<<16 })
	c := r.boot(store, limits, pace, 50*time.Millisecond, hosts[0].Address(), hosts[1].Address())
	r.eventually("both hosts are reachable", func() bool { return c.Fleet.Status()[0].Up && c.Fleet.Status()[1].Up })
	return c, hosts[1]
}

// moves returns the reasons for which a sandbox was moved.
func (r *rig) moves(sb id.Sandbox) (why []string) {
	r.t.Helper()
	events, err := r.store.Events(r.t.Context(), sb, 0, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range events {
		if e.From == models.Starting && e.To == models.Starting {
			why = append(why, e.Reason)
		}
	}
	return why
}

// counted checks that the account and the hosts are counted as having what they have: sandboxes of one vCPU.
func (r *rig) counted(hosts map[id.Host]int64) {
	r.t.Helper()
	var want int64
	for host, n := range hosts {
		want += n
		if got := r.host(host).Use; got.Sandboxes != n || got.VCPUs != n {
			r.t.Errorf("of %s is taken %+v, want %d", host, got, n)
		}
	}
	if pool, err := r.store.Pool(r.t.Context(), r.by.Account); err != nil || pool.Used.Sandboxes != want || pool.Used.VCPUs != want {
		r.t.Errorf("of the pool is used %+v, %v; want %d", pool.Used, err, want)
	}
}

// TestCreateMoves: what a host cannot carry out by its own fault another one does; the sandbox tells of it, and is counted once.
func TestCreateMoves(t *testing.T) {
	for _, code := range []models.Code{models.Internal, models.Unavailable, models.Exhausted, models.NotFound} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			c, second := r.pair(r.store, Limits{}, Pace{})
			told := metrics.New("test")
			c.Meter = NewMeter(told)
			refuse(r.sim, models.Errorf(code, "its disk is full"))
			by := r.claims(time.Minute)
			sb, err := c.Create(t.Context(), by, Request{Template: "minimal", Metadata: map[string]string{"a": "b"}})
			if err != nil || sb.State != models.Running || sb.Host != secondID || sb.Reason != "" || sb.Metadata["a"] != "b" {
				t.Fatalf("%+v, %v", sb, err)
			}
			if second.State(string(sb.ID)) != pb.SandboxState_SANDBOX_STATE_RUNNING {
				t.Error("it does not run where it is said to be")
			}
			r.path(sb.ID, models.Pending, models.Starting, models.Starting, models.Running)
			if why := r.moves(sb.ID); len(why) != 1 || why[0] != "moved from "+string(simID)+": its disk is full" {
				t.Errorf("it was moved because %q", why)
			}
			if n := sb.Steps; len(n) != 4 || n[0].Name != stepPlace || n[1].Name != stepMove || n[3].Name != stepHostCall {
				t.Errorf("its steps are %+v", n)
			}
			r.counted(map[id.Host]int64{simID: 0, secondID: 1})
			page := httptest.NewRecorder()
			told.Handler().ServeHTTP(page, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", http.NoBody))
			if line := fmt.Sprintf("wrenn_create_moves_total{code=%q} 1\n", code); !strings.Contains(page.Body.String(), line) {
				t.Errorf("%s is not told", line)
			}
			var periods, audited int
			r.query(&periods, "SELECT count(*) FROM usage_periods")
			r.query(&audited, "SELECT count(*) FROM audit_events")
			if periods != 1 || audited != 2 {
				t.Errorf("%d periods of usage, %d audit events; want 1, 2", periods, audited)
			}
			if err := r.store.ReleaseClaim(t.Context(), by.Claim); err != nil {
				t.Error(err)
			}
			if again, err := c.Create(t.Context(), r.claims(time.Minute), Request{Template: "minimal"}); err != nil || again.ID != sb.ID {
				t.Errorf("a replay is answered with %s, %v", again.ID, err)
			}
		})
	}
}

// TestWhatIsNotMoved: what the request is to blame for, and what is made from a snapshot, fails where it was tried, once.
func TestWhatIsNotMoved(t *testing.T) {
	r := newRig(t)
	c, second := r.pair(r.store, Limits{}, Pace{})
	from, err := c.CreateSnapshot(t.Context(), r.request(), r.create(c).ID, "kept")
	if err != nil {
		t.Fatal(err)
	}
	for code, req := range map[models.Code]Request{
		models.Invalid: {Template: "minimal"}, models.Precondition: {Template: "minimal"}, models.Conflict: {Template: "minimal"},
		models.Unavailable: {Snapshot: from.ID},
	} {
		before, _, _ := r.sim.Counts()
		refuse(r.sim, models.Errorf(code, "no"))
		if _, err := c.Create(t.Context(), r.request(), req); models.CodeOf(err) != code {
			t.Errorf("%s: %v", code, err)
		}
		if after, _, _ := r.sim.Counts(); after != before+1 {
			t.Errorf("%s: the host was asked %d times", code, after-before)
		}
	}
	var moved int
	r.query(&moved, "SELECT count(*) FROM sandbox_events WHERE from_state = to_state")
	if n, _, _ := second.Counts(); n != 0 || moved != 0 {
		t.Errorf("%d were moved, the other host was asked %d times", moved, n)
	}
}

// TestAllHostsFail: three hosts are tried, once each; then the user hears what the first one has said. Each of them is to blame.
func TestAllHostsFail(t *testing.T) {
	r := newRig(t)
	hosts := r.sims(3, nil)
	c := r.startAllAt(Pace{}, r.store, hosts)
	var mu sync.Mutex // guards order
	var order []string
	for i, h := range hosts {
		words := fmt.Sprintf("host %d is broken", i)
		h.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, words)
			return models.Errorf(models.Internal, "%s", words).WithHint("mend %s", words)
		}, nil)
	}
	_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
	e, sb := models.AsError(err), r.only()
	if len(order) != hostsTried || order[0] == order[1] || order[1] == order[2] || order[0] == order[2] {
		t.Fatalf("asked were %q", order)
	}
	if e.Code != models.Internal || !strings.Contains(e.Message, order[0]) || e.Hint != "mend "+order[0] || sb.State != models.Failed || sb.Reason != order[0] {
		t.Errorf("the user hears %+v of %s: %q", e, sb.State, sb.Reason)
	}
	if why := r.moves(sb.ID); len(why) != 2 || !strings.HasSuffix(why[0], order[0]) || !strings.HasSuffix(why[1], order[1]) {
		t.Errorf("it was moved because %q", why)
	}
	faults := 0
	for _, h := range c.Fleet.all() {
		faults += h.faults
	}
	if faults != hostsTried {
		t.Errorf("%d faults of hosts were counted", faults)
	}
	r.counted(map[id.Host]int64{simID: 0, secondID: 0, "host-00000002": 0, "host-00000003": 0})
}

// TestMoveFromAHostThatDied: what a host has made whose answer was lost is removed when it is back, and the sandbox stays where it is.
func TestMoveFromAHostThatDied(t *testing.T) {
	r := newRig(t)
	c, second := r.pair(r.store, Limits{}, quick)
	r.sim.OnCreate(nil, func() { go r.sim.Kill(); time.Sleep(50 * time.Millisecond) })
	sb := r.create(c)
	if why := r.moves(sb.ID); sb.Host != secondID || len(why) != 1 || !strings.Contains(why[0], "went away") {
		t.Errorf("it is on %s, moved because %q", sb.Host, why)
	}
	r.sim.Kill() // waits for the end
	if r.sim.State(string(sb.ID)) != pb.SandboxState_SANDBOX_STATE_RUNNING {
		t.Fatal("nothing of it is left")
	}
	r.sim.Restart()
	r.holds(0)
	if now := r.becomes(sb.ID, models.Running); now.Generation != sb.Generation || second.State(string(sb.ID)) != pb.SandboxState_SANDBOX_STATE_RUNNING {
		t.Errorf("it is %+v, and on its host %s", now, second.State(string(sb.ID)))
	}
}

// TestAnswerLost: what the reconciler has found running before its create heard that the answer was lost runs, where it is.
func TestAnswerLost(t *testing.T) {
	r := newRig(t)
	c, second := r.pair(r.store, Limits{}, quick)
	r.sim.OnCreate(nil, func() {
		r.becomes(r.only().ID, models.Running)
		go r.sim.Kill()
		time.Sleep(50 * time.Millisecond)
	})
	sb := r.create(c)
	if sb.Host != simID || sb.State != models.Running || r.sim.State(string(sb.ID)) != pb.SandboxState_SANDBOX_STATE_RUNNING {
		t.Errorf("it is %s on %s, and there %s", sb.State, sb.Host, r.sim.State(string(sb.ID)))
	}
	if n, _, _ := second.Counts(); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}

// TestLateHost: a host that does not answer is left. What it says at last is none of the sandbox.
func TestLateHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, second := r.pair(r.store, Limits{Lost: time.Millisecond}, quick)
	proceed := make(chan struct{})
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error { <-proceed; return nil }, nil)
	r.sim.Hang(true)
	sb := r.create(c)
	if sb.Host != secondID {
		t.Errorf("it is on %s", sb.Host)
	}
	close(proceed)
	r.eventually("it was made after all", func() bool { return r.sim.State(string(sb.ID)) == pb.SandboxState_SANDBOX_STATE_RUNNING })
	r.sim.Hang(false)
	r.holds(0)
	if now := r.becomes(sb.ID, models.Running); now.Host != secondID || now.Generation != sb.Generation || second.State(string(sb.ID)) != pb.SandboxState_SANDBOX_STATE_RUNNING {
		t.Errorf("it is %+v, and on its host %s", now, second.State(string(sb.ID)))
	}
}

// TestLateCopyIsNotTaken: a sandbox that comes back from the object store to a host which it has once left is not what that host has made late.
func TestLateCopyIsNotTaken(t *testing.T) {
	for _, found := range []string{"by the resume", "by the reconciler"} {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			c, second := r.pair(r.store, Limits{}, Pace{})
			r.sim.OnCreate(nil, func() { go r.sim.Kill(); time.Sleep(50 * time.Millisecond) })
			sb := r.create(c)
			if _, err := c.Hibernate(t.Context(), r.request(), sb.ID); err != nil {
				t.Fatal(err)
			}
			r.sim.Kill()
			r.sim.OnCreate(nil, nil)
			r.sim.Restart()
			second.Kill()
			r.eventually("only the first host is reachable", func() bool { return c.Fleet.Status()[0].Up && !c.Fleet.Status()[1].Up })
			if found == "by the resume" {
				if _, err := c.Resume(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Conflict {
					t.Errorf("the resume: %v", err)
				}
			} else { // its control plane has died
				r.sql(fmt.Sprintf("UPDATE sandboxes SET state = 'resuming', host_id = '%s' WHERE id = '%s'", simID, sb.ID))
				r.expire(sb.ID)
			}
			r.start(r.store, Limits{}, Pace{Tick: quick.Tick, Full: quick.Full, Grace: quick.Grace}) // it does not settle what a slow resume is at
			if now := r.becomes(sb.ID, models.Hibernated); now.Host != "" {
				t.Errorf("it is on %s", now.Host)
			}
			r.holds(0)
			if now, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || now.Host != simID || now.State != models.Running {
				t.Errorf("once more: %+v, %v", now, err)
			}
		})
	}
}

// TestDestroyDuringMove: a destroy beats a create that is on its way to another host, at each moment, and nothing is left anywhere.
func TestDestroyDuringMove(t *testing.T) {
	for _, where := range []string{"on the first host", "on the second host"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			c, second := r.pair(r.store, Limits{}, Pace{})
			destroy := func() {
				if gone, err := c.Destroy(t.Context(), r.request(), r.only().ID); err != nil || gone.State != models.Stopped {
					t.Errorf("destroy: %+v, %v", gone, err)
				}
			}
			r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
				if where == "on the first host" {
					destroy()
				}
				return models.Errorf(models.Unavailable, "no")
			}, nil)
			second.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error { destroy(); return nil }, nil)
			if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Conflict || !strings.Contains(err.Error(), "destroyed while") {
				t.Errorf("the create ended with %v", err)
			}
			if _, _, left := second.Counts(); left != 0 {
				t.Errorf("the second host holds %d sandboxes", left)
			}
			r.holds(0)
			r.counted(map[id.Host]int64{simID: 0, secondID: 0})
		})
	}
}

// TestControlPlaneKilledDuringMove: another one ends what it has begun, and a request with the same key makes the sandbox anew.
func TestControlPlaneKilledDuringMove(t *testing.T) {
	for _, c := range []struct{ name, before, after string }{
		{name: "before the row", before: "move"},
		{name: "before the second host is asked", after: "move"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dying := &mortal{Store: r.store, diesBefore: c.before, diesAfter: c.after}
			first, second := r.pair(dying, Limits{}, Pace{})
			refuse(r.sim, models.Errorf(models.Unavailable, "no"))
			if _, err := first.Create(t.Context(), r.claims(time.Millisecond), Request{Template: "minimal"}); err == nil {
				t.Fatal("a dead control plane has answered")
			}
			first.end()
			sb := r.only()
			r.expire(sb.ID)
			next := r.startWith(r.store, Limits{}, quick, r.sim.Address(), second.Address())
			if now := r.becomes(sb.ID, models.Failed); now.Reason != reasonLost {
				t.Errorf("it has failed: %q", now.Reason)
			}
			r.eventually("both hosts are reachable", func() bool { return next.Fleet.Status()[1].Up })
			again, err := next.Create(t.Context(), r.claims(time.Minute), Request{Template: "minimal"})
			if err != nil || again.ID == sb.ID || again.Host != secondID {
				t.Errorf("once more: %+v, %v", again, err)
			}
			r.holds(0)
			r.counted(map[id.Host]int64{simID: 0, secondID: 1})
		})
	}
}

// unheard is a store whose connection breaks in a move, after the commit.
type unheard struct{ *db.Store }

func (u unheard) Move(ctx context.Context, c db.Change, from id.Host, place db.HostFunc) (models.Sandbox, error) {
	_, err := u.Store.Move(ctx, c, from, place)
	return models.Sandbox{}, errors.Join(err, errors.New("the connection broke"))
}

// TestMoveUnheard: a move of which nobody has heard fails as the first host did.
func TestMoveUnheard(t *testing.T) {
	r := newRig(t)
	c, second := r.pair(unheard{r.store}, Limits{}, Pace{})
	refuse(r.sim, models.Errorf(models.Exhausted, "its disk is full"))
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Exhausted {
		t.Errorf("the create ended with %v", err)
	}
	if sb := r.only(); sb.State != models.Failed || sb.Reason != "its disk is full" || sb.Host != secondID {
		t.Errorf("it is %+v", sb)
	}
	if n, _, _ := second.Counts(); n != 0 {
		t.Errorf("the second host was asked %d times", n)
	}
	r.counted(map[id.Host]int64{simID: 0, secondID: 0})
}

// TestDeadlineDuringMove: the time that a create has is that of all hosts together.
func TestDeadlineDuringMove(t *testing.T) {
	t.Parallel()
	const limit = 5 * time.Second // of which a busy machine needs a part until the second host is asked
	r := newRig(t)
	c, second := r.pair(r.store, Limits{Create: limit}, quick)
	refuse(r.sim, models.Errorf(models.Unavailable, "no"))
	var rest time.Duration
	second.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error {
		rest = time.Until(r.only().Deadline)
		<-ctx.Done()
		return ctx.Err()
	}, nil)
	_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
	if sb := r.only(); models.CodeOf(err) != models.Unavailable || sb.State != models.Failed || sb.Reason != "no" {
		t.Errorf("%v; it is %s: %q", err, sb.State, sb.Reason)
	}
	if rest > limit+writeLimit {
		t.Errorf("on the second host it had %s until its deadline", rest)
	}
	r.eventually("nothing is left on the second host", func() bool { _, _, n := second.Counts(); return n == 0 })
}

// TestMoveToWhereThereIsRoom: no create goes to a host that has become full, or is drained, meanwhile, however many come at once.
func TestMoveToWhereThereIsRoom(t *testing.T) {
	const room, asked = 3, 8
	r := newRig(t)
	c, second := r.pair(r.store, Limits{}, Pace{})
	second.Describe(func(i *pb.GetHostInfoResponse) { i.MemoryMib = room*256 + 100 })
	r.eventually("it is known", func() bool { return r.host(secondID).MemoryMiB == room*256+100 })
	var all sync.WaitGroup
	all.Add(asked)
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
		all.Done()
		all.Wait()
		return models.Errorf(models.Internal, "no")
	}, nil)
	made := make(chan error, asked)
	for range asked {
		go func() {
			_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
			made <- err
		}()
	}
	ran := 0
	for range asked {
		if err := <-made; err == nil {
			ran++
		} else if models.CodeOf(err) != models.Internal {
			t.Errorf("one ended with %v", err)
		}
	}
	if ran != room || r.oversold() != 0 {
		t.Errorf("%d run, want %d; %d hosts are oversold", ran, room, r.oversold())
	}
	r.counted(map[id.Host]int64{simID: 0, secondID: room})
}

// TestMoveSparesTheDrained: a host that is drained while the first one is at it takes no create.
func TestMoveSparesTheDrained(t *testing.T) {
	r := newRig(t)
	c, second := r.pair(r.store, Limits{}, Pace{})
	r.sim.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error {
		return errors.Join(r.store.SetDraining(ctx, secondID, operator, true, false), models.Errorf(models.Internal, "no"))
	}, nil)
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Internal {
		t.Errorf("the create ended with %v", err)
	}
	if n, _, _ := second.Counts(); n != 0 {
		t.Errorf("the host that is drained was asked %d times", n)
	}
}
