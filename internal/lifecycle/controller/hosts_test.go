package controller

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// sims returns the rig's host and n more, which share its object store.
func (r *rig) sims(n int, change func(*pb.GetHostInfoResponse)) []*hostsim.Host {
	r.t.Helper()
	all := []*hostsim.Host{r.sim}
	for i := range n {
		h := hostsim.Start(r.t)
		h.Share(r.sim)
		h.Describe(func(info *pb.GetHostInfoResponse) { info.HostId = fmt.Sprintf("host-0000000%d", i+1) })
		all = append(all, h)
	}
	for _, h := range all {
		if change != nil {
			h.Describe(change)
		}
	}
	return all
}

// startAll is start with several hosts, all of which are waited for.
func (r *rig) startAll(store Store, hosts []*hostsim.Host) *replica {
	r.t.Helper()
	return r.startAllAt(quick, store, hosts)
}

func (r *rig) startAllAt(pace Pace, store Store, hosts []*hostsim.Host) *replica {
	r.t.Helper()
	addresses := make([]string, len(hosts))
	for i, h := range hosts {
		addresses[i] = h.Address()
	}
	c := r.startWith(store, Limits{}, pace, addresses...)
	r.eventually("all hosts are reachable", func() bool {
		for _, s := range c.Fleet.Status() {
			if !s.Up {
				return false
			}
		}
		return true
	})
	return c
}

// host returns what the store says of a host.
func (r *rig) host(h id.Host) db.HeldHost {
	r.t.Helper()
	all, err := r.store.HeldHosts(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, one := range all {
		if one.ID == h {
			return one
		}
	}
	r.t.Fatalf("there is no host %s", h)
	return db.HeldHost{}
}

const simID = id.Host("host-0000abcd")

// operator is who drains and removes hosts.
var operator = db.By{Actor: "operator", Operation: "req-0"}

// TestCreatesSpread: each create goes to the host that is the least full.
func TestCreatesSpread(t *testing.T) {
	r := newRig(t)
	hosts := r.sims(2, nil)
	c := r.startAll(r.store, hosts)
	for range 9 {
		r.create(c)
	}
	for i, h := range hosts {
		if _, _, n := h.Counts(); n != 3 {
			t.Errorf("host %d has %d sandboxes, want 3", i, n)
		}
	}
}

// TestReplicasNeverOversell: two replicas, each with a store of its own, create, pause, resume, hibernate and fork on three hosts that are nearly full. At no moment is more of a
// host promised than it has, and what is refused is refused for want of room; also where there are so many sandboxes that placements choose by a view which is a while old.
func TestReplicasNeverOversell(t *testing.T) {
	for name, elsewhere := range map[string]int{"few": 0, "many": 6000} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			hosts := r.sims(2, func(i *pb.GetHostInfoResponse) { i.MemoryMib, i.OverheadMib = 4*256+100, 20 })
			r.populate(elsewhere)
			other, err := db.Open(t.Context(), r.url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(other.Close)
			// With no less patience than a deployment has: a resume that is slower than the patience of the reconciler is undone, and then found done.
			pace := Pace{Tick: quick.Tick, Tend: quick.Tend}
			replicas := []*replica{r.startAllAt(pace, r.store, hosts), r.startAllAt(pace, other, hosts)}
			ctx, stop := context.WithCancel(t.Context())
			var watching, wg sync.WaitGroup
			watching.Go(func() { r.watchRoom(ctx) })
			for worker := range 8 {
				wg.Go(func() { r.churn(replicas[worker%2], worker) })
			}
			wg.Wait()
			stop()
			watching.Wait()
			r.fill(replicas)
		})
	}
}

// populate has a host that no replica knows hold some sandboxes.
func (r *rig) populate(sandboxes int) {
	r.t.Helper()
	r.sql(`INSERT INTO hosts (id, name, address, state, agent_version, driver, driver_version, accelerator, vcpus, memory_mib, disk_mib, reflinks, templates)
		VALUES ('host-000000ff', '', 'unix:///nowhere', 'ready', '', '', '', '', 64, 4000000, 4000000, true, '[]')`)
	r.sql(fmt.Sprintf(`INSERT INTO sandboxes (id, account_id, host_id, name, template, vcpus, memory_mib, disk_mib, metadata, state, generation, reason, operation)
		SELECT 'sb-' || lpad(to_hex(n), 8, '0'), '%s', 'host-000000ff', '', 'minimal', 1, 256, 512, '{}', 'running', 3, '', ''
		FROM generate_series(1, %d) AS n`, r.by.Account, sandboxes))
}

// fill creates until all hosts are full, which is said of all of them, and not any more as soon as one is destroyed.
func (r *rig) fill(replicas []*replica) {
	r.t.Helper()
	var last models.Sandbox
	for i := 0; ; i++ {
		sb, err := replicas[i%2].Create(r.t.Context(), r.request(), Request{Template: "minimal"})
		if err == nil {
			last = sb
			continue
		}
		if models.CodeOf(err) != models.Exhausted || !strings.Contains(err.Error(), "no host has room") || !strings.Contains(err.Error(), "MiB of memory") {
			r.t.Errorf("a create when all are full: %v", err)
		}
		break
	}
	if n := r.oversold(); n != 0 {
		r.t.Errorf("%d hosts are oversold", n)
	}
	if last.ID == "" {
		return // the churn has filled them
	}
	if _, err := replicas[0].Destroy(r.t.Context(), r.request(), last.ID); err != nil {
		r.t.Fatal(err)
	}
	if sb, err := replicas[1].Create(r.t.Context(), r.request(), Request{Template: "minimal"}); err != nil || sb.Host != last.Host {
		r.t.Errorf("a create where one has gone: %+v, %v", sb, err)
	}
}

// churn does what takes room, and gives it back.
func (r *rig) churn(c *replica, worker int) {
	for round := range 6 {
		sb, err := c.Create(r.t.Context(), r.request(), Request{Template: "minimal"})
		r.roomOr("create", err)
		if err != nil {
			continue
		}
		if (worker+round)%3 == 0 {
			_, err := c.Fork(r.t.Context(), r.request(), sb.ID, ForkRequest{Count: 2})
			r.roomOr("fork", err)
		}
		sleep := c.Pause
		if (worker+round)%2 == 0 {
			sleep = c.Hibernate
		}
		if _, err := sleep(r.t.Context(), r.request(), sb.ID); err != nil {
			r.t.Errorf("sleep: %v", err)
		}
		_, err = c.Resume(r.t.Context(), r.request(), sb.ID)
		r.roomOr("resume", err)
		if round%2 == 0 {
			if _, err := c.Destroy(r.t.Context(), r.request(), sb.ID); err != nil {
				r.t.Errorf("destroy: %v", err)
			}
		}
	}
}

func (r *rig) roomOr(what string, err error) {
	if err != nil && models.CodeOf(err) != models.Exhausted {
		r.t.Errorf("%s: %v", what, err)
	}
}

// watchRoom looks again and again whether a host is oversold, until ctx ends.
func (r *rig) watchRoom(ctx context.Context) {
	for pause(ctx, 2*time.Millisecond) {
		if n := r.oversold(); n != 0 {
			r.t.Errorf("%d hosts are oversold", n)
			return
		}
	}
}

// oversold counts the hosts of which more memory is promised than they have. What is destroyed in its sleep has none.
func (r *rig) oversold() (n int) {
	r.query(&n, `SELECT count(*) FROM hosts h JOIN (
		SELECT host_id, sum(memory_mib) AS memory, count(*) AS sandboxes FROM sandboxes
		WHERE state IN ('starting', 'running', 'pausing', 'resuming', 'stopping') AND NOT EXISTS (SELECT 1 FROM sandbox_events e
			WHERE e.sandbox_id = sandboxes.id AND e.generation = sandboxes.generation AND e.from_state IN ('paused', 'hibernating') AND e.to_state = 'stopping')
		GROUP BY host_id
	) AS s ON s.host_id = h.id WHERE s.memory + s.sandboxes * h.overhead_mib > h.memory_mib`)
	return n
}

// TestQuarantine: a host whose creates fail is taken out, sandboxes go elsewhere, and it is back when a probe succeeds. The last host is left in.
func TestQuarantine(t *testing.T) {
	r := newRig(t)
	hosts := r.sims(1, nil)
	c := r.startAll(r.store, hosts)
	var mu sync.Mutex // guards broken
	broken := true
	fails := func(context.Context, *pb.CreateSandboxRequest) error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return models.Errorf(models.Internal, "its disk is read-only")
		}
		return nil
	}
	r.sim.OnCreate(fails, nil)
	r.eventually("it is taken out", func() bool {
		_, _ = c.Create(t.Context(), r.request(), Request{Template: "minimal"}) // goes to either
		return r.host(simID).State() == models.HostQuarantined
	})
	if why := r.host(simID).Quarantine; !strings.Contains(why, "read-only") {
		t.Errorf("it is in quarantine because %q", why)
	}
	for range 4 {
		if sb := r.create(c); sb.Host == simID {
			t.Error("a sandbox was placed on a host in quarantine")
		}
	}
	asked, _, _ := r.sim.Counts()
	r.eventually("it is probed", func() bool { n, _, _ := r.sim.Counts(); return n > asked })
	if now := r.host(simID); now.State() != models.HostQuarantined {
		t.Errorf("after a probe that failed it is %s", now.State())
	}
	hosts[1].OnCreate(fails, nil)
	for range 2 * faultLimit {
		_, _ = c.Create(t.Context(), r.request(), Request{Template: "minimal"}) // fails
	}
	if now := r.host("host-00000001"); now.State() != models.HostReady {
		t.Errorf("the last host is %s", now.State())
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	r.eventually("it is back", func() bool { return r.host(simID).State() == models.HostReady })
	r.holds(0) // nothing is left of the probes
}

// TestBadRequestsAreNoFault: what a user asks for wrongly takes no host out.
func TestBadRequestsAreNoFault(t *testing.T) {
	r := newRig(t)
	hosts := r.sims(1, nil)
	c := r.startAll(r.store, hosts)
	for _, h := range hosts {
		h.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error { return models.Errorf(models.Invalid, "no") }, nil)
	}
	for range 4 * faultLimit {
		_, _ = c.Create(t.Context(), r.request(), Request{Template: "minimal"}) // fails
	}
	if a, b := r.host(simID).State(), r.host("host-00000001").State(); a != models.HostReady || b != models.HostReady {
		t.Errorf("the hosts are %s and %s", a, b)
	}
}

// TestDrain: a host that is drained takes nothing new; what sleeps there goes into the object store, what runs stays until it is to go too; then it takes sandboxes again.
func TestDrain(t *testing.T) {
	r := newRig(t)
	hosts := r.sims(1, nil)
	hosts[1].Describe(func(i *pb.GetHostInfoResponse) { i.Vcpus = 1 })
	c := r.startAll(r.store, hosts)
	running, sleeping := r.create(c), r.create(c)
	if running.Host != simID || sleeping.Host != simID {
		t.Fatalf("they are on %s and %s", running.Host, sleeping.Host)
	}
	if _, err := c.Pause(t.Context(), r.request(), sleeping.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.store.SetDraining(t.Context(), simID, operator, true, false); err != nil {
		t.Fatal(err)
	}
	if now := r.becomes(sleeping.ID, models.Hibernated); now.Reason != reasonDrained || now.Host != "" {
		t.Errorf("what slept: %+v", now)
	}
	if sb := r.create(c); sb.Host == simID {
		t.Error("a sandbox was placed on a host that is drained")
	}
	if _, err := c.Fork(t.Context(), r.request(), running.ID, ForkRequest{Count: 1}); models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), "drained") {
		t.Errorf("a fork there: %v", err)
	}
	if sb, err := c.Resume(t.Context(), r.request(), sleeping.ID); err != nil || sb.Host == simID {
		t.Errorf("a resume of what has left: %+v, %v", sb, err)
	}
	if now, err := r.store.Sandbox(t.Context(), r.by.Account, running.ID); err != nil || now.State != models.Running {
		t.Errorf("what ran: %+v, %v", now, err)
	}
	if err := r.store.RemoveHost(t.Context(), simID, operator, false); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "1 sandboxes that run") {
		t.Errorf("removal of a host that holds something: %v", err)
	}
	if err := r.store.SetDraining(t.Context(), simID, operator, true, true); err != nil {
		t.Fatal(err)
	}
	r.becomes(running.ID, models.Hibernated)
	r.holds(0)
	if err := r.store.SetDraining(t.Context(), simID, operator, false, false); err != nil {
		t.Fatal(err)
	}
	r.eventually("sandboxes go there again", func() bool { return r.create(c).Host == simID }) // placements choose by a view that is a while old
	if err := r.store.SetDraining(t.Context(), "host-99999999", operator, true, false); models.CodeOf(err) != models.NotFound {
		t.Errorf("drain of no host: %v", err)
	}
}

// TestDrainWithoutItsStore: while the object store is away what sleeps stays where it is, and leaves when that is back.
func TestDrainWithoutItsStore(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	r.sim.Objects().Down(models.Errorf(models.Unavailable, "no store"))
	if err := r.store.SetDraining(t.Context(), simID, operator, true, false); err != nil {
		t.Fatal(err)
	}
	if pause(t.Context(), 5*quick.Tend); r.becomes(sb.ID, models.Paused).Generation != 5 {
		t.Errorf("it was moved about: %+v", r.becomes(sb.ID, models.Paused))
	}
	r.sim.Objects().Down(nil)
	r.becomes(sb.ID, models.Hibernated)
}

// TestRemovedHost: what a host holds is given up only when that is meant; then its sandboxes say so, and it is not taken in again.
func TestRemovedHost(t *testing.T) {
	r := newRig(t)
	hosts := r.sims(1, nil)
	c := r.startAll(r.store, hosts)
	sb := r.create(c)
	kept := r.hibernated(c)
	if sb.Host != "host-00000001" {
		t.Fatalf("it is on %s", sb.Host)
	}
	if err := r.store.RemoveHost(t.Context(), sb.Host, operator, true); err != nil {
		t.Fatal(err)
	}
	if now := r.becomes(sb.ID, models.Failed); !strings.HasPrefix(now.Reason, "lost: ") || !strings.Contains(now.Reason, "removed by an operator") {
		t.Errorf("its sandbox: %q", now.Reason)
	}
	hosts[1].Kill()
	hosts[1].Restart()
	r.eventually("it is not taken in again", func() bool {
		s := c.Fleet.Status()[1]
		return !s.Up && s.Err != nil && models.CodeOf(s.Err) == models.Forbidden
	})
	if now, err := c.Resume(t.Context(), r.request(), kept.ID); err != nil || now.Host != simID {
		t.Errorf("what was hibernated: %+v, %v", now, err)
	}
	if err := r.store.RemoveHost(t.Context(), sb.Host, operator, true); models.CodeOf(err) != models.NotFound {
		t.Errorf("a second removal: %v", err)
	}
}

// TestLostHostIsTold: the sandboxes of a host that is away say so, keep their states, and are as they were when it is back.
func TestLostHostIsTold(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Lost: time.Millisecond}, quick)
	running, asleep := r.create(c), r.create(c)
	if _, err := c.Pause(t.Context(), r.request(), asleep.ID); err != nil {
		t.Fatal(err)
	}
	told := func(sb id.Sandbox) models.Sandbox {
		row, err := r.store.Sandbox(t.Context(), r.by.Account, sb)
		if err != nil {
			t.Fatal(err)
		}
		return c.Told(row)
	}
	r.sim.Kill()
	for sb, state := range map[id.Sandbox]models.State{running.ID: models.Running, asleep.ID: models.Paused} {
		r.eventually("it says so", func() bool { return strings.Contains(told(sb).Reason, "cannot be reached since") })
		if now := told(sb); now.State != state {
			t.Errorf("%s is %s while its host is away", sb, now.State)
		}
	}
	r.eventually("the host is down", func() bool { return r.host(simID).State() == models.HostDown })
	r.sim.Restart()
	r.eventually("it is as it was", func() bool { return told(running.ID).Reason == "" && told(asleep.ID).Reason == "" })
	if now := r.host(simID); now.State() != models.HostReady || told(running.ID).State != models.Running {
		t.Errorf("the host is %s, the sandbox %s", now.State(), told(running.ID).State)
	}
}
