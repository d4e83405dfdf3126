package controller

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// brief has sandboxes count as used for so short that a test sees what comes after.
var brief = Limits{Use: 40 * time.Millisecond}

// keeps runs a keeper of a replica until end is called or the test ends.
func (r *rig) keeps(c *replica) (end func()) {
	r.t.Helper()
	k := NewKeeper(c.Controller, r.store, 5*time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx) })
	end = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	r.t.Cleanup(end)
	return end
}

func every(d time.Duration) *time.Duration { return &d }

// living returns a running sandbox with a lifecycle.
func (r *rig) living(c *replica, l models.LifecycleChange) models.Sandbox {
	r.t.Helper()
	sb, err := c.Create(r.t.Context(), r.request(), Request{Template: "minimal", Lifecycle: l})
	if err != nil {
		r.t.Fatal(err)
	}
	return sb
}

// age moves all times of a sandbox's lifecycle into the past, as if it had been left alone for d.
func (r *rig) age(sb id.Sandbox, d time.Duration) {
	r.t.Helper()
	by := fmt.Sprintf("interval '%f seconds'", d.Seconds())
	r.sql(fmt.Sprintf(`UPDATE sandboxes SET used_until = used_until - %[1]s, asleep_since = asleep_since - %[1]s, timeout_at = timeout_at - %[1]s,
		look_at = look_at - %[1]s WHERE id = '%[2]s'`, by, sb))
}

func (r *rig) now(sb id.Sandbox) models.Sandbox {
	r.t.Helper()
	now, err := r.store.Sandbox(r.t.Context(), r.by.Account, sb)
	if err != nil {
		r.t.Fatal(err)
	}
	return now
}

// used waits until a sandbox counts as used after since, by the database's clock.
func (r *rig) used(sb id.Sandbox, since time.Time) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%s counts as used after %s", sb, since), func() bool { return r.now(sb).UsedUntil.After(since) })
}

// unused waits until a replica, which has a keeper, knows of no use of a sandbox any more.
func (r *rig) unused(c *replica, sb id.Sandbox) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("nobody uses %s", sb), func() bool {
		c.uses.mu.Lock()
		defer c.uses.mu.Unlock()
		return c.uses.of[sb] == nil
	})
}

// TestLifecycle is the life of a sandbox that is left alone: it is put to sleep, a request wakes it, and at last it is destroyed. Each says why, and who did it.
func TestLifecycle(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, brief, quick)
	r.keeps(c)
	sb := r.living(c, models.LifecycleChange{AutoPause: every(time.Hour), AutoHibernate: every(12 * time.Hour), AutoDestroy: every(24 * time.Hour)})
	r.age(sb.ID, 2*time.Hour)
	if now := r.becomes(sb.ID, models.Paused); now.Reason != "nobody used it for 1h0m0s" || now.AsleepSince.IsZero() {
		t.Errorf("it is paused: %+v", now)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, err := c.Guest(ctx, r.by.Account, sb.ID)
	if err == nil {
		_, err = g.Metrics(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	r.unused(c, sb.ID)
	if now := r.becomes(sb.ID, models.Running); now.Reason != "" || !now.AsleepSince.IsZero() {
		t.Errorf("it runs: %+v", now)
	}
	r.age(sb.ID, 2*time.Hour)
	r.becomes(sb.ID, models.Paused)
	r.age(sb.ID, 13*time.Hour)
	if now := r.becomes(sb.ID, models.Hibernated); now.Reason != "it was paused for 12h0m0s" {
		t.Errorf("it is hibernated: %+v", now)
	}
	r.age(sb.ID, 12*time.Hour)
	if now := r.becomes(sb.ID, models.Stopped); now.Reason != "nobody wanted it for 24h0m0s" {
		t.Errorf("it has ended: %+v", now)
	}
	r.holds(0)
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Resuming, models.Running,
		models.Pausing, models.Paused, models.Hibernating, models.Hibernated, models.Stopping, models.Stopped)
	events, err := r.store.Events(t.Context(), sb.ID, 0, 1000)
	if err != nil || events[3].Actor != "system" || events[3].Reason != "nobody used it for 1h0m0s" || !strings.HasPrefix(events[3].Operation, "req-") {
		t.Errorf("event %+v, %v", events[3], err)
	}
	audit, err := r.store.AuditLog(t.Context(), r.by.Account, 2)
	if err != nil || audit[0].Action != auditDestroy || audit[0].Actor != "system" || audit[1].Outcome != "accepted" {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

// TestUse: a request is use as long as it lasts, a connection when something passes through it. Who only holds one open keeps no sandbox awake.
func TestUse(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, brief, Pace{})
	end := r.keeps(c)
	idle := models.LifecycleChange{AutoPause: every(time.Hour)}
	requested, connected := r.living(c, idle), r.living(c, idle)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := c.Guest(ctx, r.by.Account, requested.ID); err != nil {
		t.Fatal(err)
	}
	_, used, err := c.Connection(t.Context(), r.by.Account, connected.ID)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		last := r.now(requested.ID).UsedUntil
		r.used(requested.ID, last)
		last = r.now(connected.ID).UsedUntil
		used()
		r.used(connected.ID, last)
	}
	end()
	r.age(connected.ID, 2*time.Hour)
	r.age(requested.ID, 2*time.Hour)
	end = r.keeps(c)
	r.becomes(connected.ID, models.Paused)
	if now := r.now(requested.ID); now.State != models.Running {
		t.Errorf("with a request under way it is %s: %s", now.State, now.Reason)
	}
	cancel()
	r.unused(c, requested.ID)
	end()
	r.age(requested.ID, 2*time.Hour)
	r.keeps(c)
	r.becomes(requested.ID, models.Paused)
}

// TestUseIsCheap: requests write nothing where there is no idle time, and else not before the last use that was written is over.
func TestUseIsCheap(t *testing.T) {
	r := newRig(t)
	counted := &counting{Store: r.store}
	c := r.start(counted, Limits{Use: time.Hour}, Pace{})
	without, with := r.create(c), r.living(c, models.LifecycleChange{AutoPause: every(2 * time.Hour)})
	for _, want := range []struct {
		sb   id.Sandbox
		uses int
	}{{without.ID, 0}, {with.ID, 1}} {
		counted.uses = 0
		for range 20 {
			r.guest(c, want.sb)
		}
		if counted.uses != want.uses {
			t.Errorf("20 requests have written %d times, want %d", counted.uses, want.uses)
		}
	}
}

// counting is a store that counts, and calls before when a sandbox is about to be put to sleep or destroyed because it is time.
type counting struct {
	*db.Store
	uses   int
	before func()
}

func (s *counting) Use(ctx context.Context, account id.Account, sb id.Sandbox, lease time.Duration) (models.Sandbox, error) {
	s.uses++
	return s.Store.Use(ctx, account, sb, lease)
}

func (s *counting) TransitionIf(ctx context.Context, c db.Change, still db.StillFunc) (models.Sandbox, error) {
	if s.before != nil {
		s.before()
	}
	return s.Store.TransitionIf(ctx, c, still)
}

// TestRequestBeforeAutoPause: a request that comes when its sandbox is already taken for idle, through another replica, keeps it awake.
func TestRequestBeforeAutoPause(t *testing.T) {
	r := newRig(t)
	late := &counting{Store: r.store}
	c, other := r.start(late, brief, Pace{}), r.start(r.store, brief, Pace{})
	sb := r.living(c, models.LifecycleChange{AutoPause: every(time.Hour)})
	asked := make(chan struct{})
	late.before = sync.OnceFunc(func() {
		defer close(asked)
		if _, err := other.Guest(t.Context(), r.by.Account, sb.ID); err != nil {
			t.Error(err)
		}
	})
	r.keeps(c)
	r.age(sb.ID, 2*time.Hour)
	<-asked
	r.eventually("it is to be looked at in an hour", func() bool { return r.look(sb.ID) > 50*time.Minute })
	r.path(sb.ID, models.Pending, models.Starting, models.Running)
}

// look returns when a sandbox is to be looked at, from now on.
func (r *rig) look(sb id.Sandbox) time.Duration {
	r.t.Helper()
	var seconds float64
	r.query(&seconds, fmt.Sprintf("SELECT coalesce(extract(epoch FROM look_at - clock_timestamp()), -1)::float8 FROM sandboxes WHERE id = '%s'", sb))
	return time.Duration(seconds * float64(time.Second))
}

// TestRequestDuringAutoPause: one that comes a moment later is held until the sandbox has slept and runs again.
func TestRequestDuringAutoPause(t *testing.T) {
	r := newRig(t)
	c, other := r.start(r.store, brief, Pace{}), r.start(r.store, brief, Pace{})
	sb := r.living(c, models.LifecycleChange{AutoPause: every(time.Hour)})
	falling, release := make(chan struct{}), make(chan struct{})
	fall := sync.OnceFunc(func() { close(falling) })
	r.sim.OnSleep(func(_ context.Context, sb *pb.Sandbox) error {
		if sb.GetState() == pb.SandboxState_SANDBOX_STATE_PAUSING {
			fall()
			<-release
		}
		return nil
	}, nil)
	r.keeps(c)
	r.age(sb.ID, 2*time.Hour)
	<-falling
	answered := make(chan error, 1)
	go func() {
		g, err := other.Guest(t.Context(), r.by.Account, sb.ID)
		if err == nil {
			_, err = g.Metrics(t.Context())
		}
		answered <- err
	}()
	r.used(sb.ID, time.Now().Add(-time.Hour)) // the request has come
	close(release)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Resuming, models.Running)
}

// TestKeepersRace: of two replicas one puts each sandbox to sleep, once.
func TestKeepersRace(t *testing.T) {
	r := newRig(t)
	c, other := r.start(r.store, brief, quick), r.start(r.store, brief, quick)
	const count = 12
	var all []models.Sandbox
	for range count {
		all = append(all, r.living(c, models.LifecycleChange{AutoPause: every(time.Hour)}))
	}
	for _, sb := range all {
		r.age(sb.ID, 2*time.Hour)
	}
	r.keeps(c)
	r.keeps(other)
	for _, sb := range all {
		r.becomes(sb.ID, models.Paused)
		r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused)
	}
	if pauses, _ := r.sim.Sleeps(); pauses != count {
		t.Errorf("the host has paused %d times", pauses)
	}
}

// TestTimeout: it ends a sandbox whether that runs or sleeps, or puts it to sleep; it can be set anew, which counts from then on, and a sandbox
// that it has put to sleep has it again when it wakes.
func TestTimeout(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, brief, quick)
	r.keeps(c)
	destroy := models.LifecycleChange{Timeout: every(time.Hour)}
	running, paused := r.living(c, destroy), r.living(c, destroy)
	if _, err := c.Pause(t.Context(), r.request(), paused.ID); err != nil {
		t.Fatal(err)
	}
	extended, err := c.SetLifecycle(t.Context(), r.request(), running.ID, models.LifecycleChange{Timeout: every(3 * time.Hour)})
	if err != nil || extended.TimeoutAt.Sub(running.TimeoutAt) < 2*time.Hour {
		t.Errorf("%+v, %v", extended, err)
	}
	r.age(running.ID, 2*time.Hour)
	r.age(paused.ID, 2*time.Hour)
	if now := r.becomes(paused.ID, models.Stopped); now.Reason != "its timeout of 1h0m0s has ended" {
		t.Errorf("%+v", now)
	}
	if now := r.now(running.ID); now.State != models.Running {
		t.Errorf("with more time it is %s", now.State)
	}
	r.age(running.ID, 2*time.Hour)
	r.becomes(running.ID, models.Stopped)

	pause := models.PauseOnTimeout
	sleeper := r.living(c, models.LifecycleChange{Timeout: every(time.Hour), OnTimeout: &pause})
	if _, err := c.Guest(t.Context(), r.by.Account, sleeper.ID); err != nil { // use is nothing to a timeout
		t.Fatal(err)
	}
	r.age(sleeper.ID, 2*time.Hour)
	if now := r.becomes(sleeper.ID, models.Paused); now.Reason != "its timeout of 1h0m0s has ended" {
		t.Errorf("%+v", now)
	}
	woken, err := c.Resume(t.Context(), r.request(), sleeper.ID)
	if err != nil || time.Until(woken.TimeoutAt) < 50*time.Minute {
		t.Errorf("woken it ends at %s, %v", woken.TimeoutAt, err)
	}
}

// TestLifecycleAfterARestart: what became due while no control plane was there happens when one is, and what one has begun and died in is finished.
func TestLifecycleAfterARestart(t *testing.T) {
	r := newRig(t)
	dying := &mortal{Store: r.store, diesAfter: string(models.Pausing)}
	first := r.start(dying, brief, Pace{})
	idle := models.LifecycleChange{AutoPause: every(time.Hour)}
	begun, left := r.living(first, idle), r.living(first, idle)
	end := r.keeps(first)
	r.age(begun.ID, 2*time.Hour)
	r.becomes(begun.ID, models.Pausing)
	end()
	first.end()
	r.age(left.ID, 2*time.Hour)
	r.expire(begun.ID)
	second := r.start(r.store, brief, quick)
	r.keeps(second)
	r.becomes(left.ID, models.Paused)
	if now := r.becomes(begun.ID, models.Running); time.Until(now.UsedUntil.Add(time.Hour)) > 0 {
		t.Errorf("it was used until %s", now.UsedUntil)
	}
	r.age(begun.ID, time.Minute) // the wait after what has failed
	r.becomes(begun.ID, models.Paused)
}

// TestStepThatFails: the sandbox is as it was, its reason says why, and it is tried again later, not at once. Of a host that is away nothing is asked.
func TestStepThatFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, brief, Pace{})
	sb := r.living(c, models.LifecycleChange{AutoPause: every(time.Hour)})
	r.sim.OnSleep(func(context.Context, *pb.Sandbox) error {
		return models.Errorf(models.Exhausted, "the host's disk is full")
	}, nil)
	r.keeps(c)
	r.age(sb.ID, 2*time.Hour)
	r.eventually("its reason is there", func() bool { return r.now(sb.ID).Reason == "the host's disk is full" })
	r.eventually("it is postponed by the time that it is overdue, or the most", func() bool { return r.look(sb.ID) > stepRetryMost-time.Minute })
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Running)
	r.sim.OnSleep(nil, nil)
	r.sim.Kill()
	r.eventually("the host is away", func() bool { return !c.Fleet.Status()[0].Up })
	r.age(sb.ID, time.Hour)
	r.eventually("it is postponed", func() bool { return r.look(sb.ID) > time.Second })
	r.in(models.Running)
	r.sim.Restart()
	r.eventually("the host is back", func() bool { return c.Fleet.Status()[0].Up })
	r.age(sb.ID, time.Hour)
	r.becomes(sb.ID, models.Paused)
}

// TestAutoHibernateWithoutAStore: a sandbox is not sent on its way while the object store does not answer, and is when it does.
func TestAutoHibernateWithoutAStore(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, brief, Pace{})
	sb := r.living(c, models.LifecycleChange{AutoHibernate: every(time.Hour)})
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	r.sim.Objects().Down(models.Errorf(models.Unavailable, "the object store cannot be reached"))
	r.keeps(c)
	r.age(sb.ID, 2*time.Hour)
	r.eventually("it is postponed", func() bool { return r.look(sb.ID) > stepRetryMost-time.Minute })
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused)
	r.sim.Objects().Down(nil)
	r.age(sb.ID, time.Hour)
	r.becomes(sb.ID, models.Hibernated)
}

// TestSetLifecycle: what is not named stays, bad values change nothing, an end is the end.
func TestSetLifecycle(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.living(c, models.LifecycleChange{AutoPause: every(time.Hour), Timeout: every(2 * time.Hour)})
	now, err := c.SetLifecycle(t.Context(), r.request(), sb.ID, models.LifecycleChange{AutoDestroy: every(time.Minute)})
	want := models.Lifecycle{AutoPause: time.Hour, AutoDestroy: time.Minute, Timeout: 2 * time.Hour, OnTimeout: models.DestroyOnTimeout}
	if err != nil || now.Lifecycle != want || !now.TimeoutAt.Equal(sb.TimeoutAt) || now.Generation != sb.Generation {
		t.Errorf("%+v, %v", now, err)
	}
	if now, err = c.SetLifecycle(t.Context(), r.request(), sb.ID, models.LifecycleChange{Timeout: every(0)}); err != nil || !now.TimeoutAt.IsZero() {
		t.Errorf("without a timeout it ends at %s, %v", now.TimeoutAt, err)
	}
	if _, err := c.SetLifecycle(t.Context(), r.request(), sb.ID, models.LifecycleChange{AutoPause: every(time.Second)}); models.CodeOf(err) != models.Invalid {
		t.Errorf("too short: %v", err)
	}
	if _, err := c.SetLifecycle(t.Context(), By{Account: "acc-ffffffff"}, sb.ID, models.LifecycleChange{}); models.CodeOf(err) != models.NotFound {
		t.Errorf("of somebody else: %v", err)
	}
	if _, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetLifecycle(t.Context(), r.request(), sb.ID, models.LifecycleChange{Timeout: every(time.Hour)}); models.CodeOf(err) != models.Precondition {
		t.Errorf("of one that is gone: %v", err)
	}
}
