package controller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// hibernated returns a sandbox that is on no host.
func (r *rig) hibernated(c *replica) models.Sandbox {
	r.t.Helper()
	sb := r.create(c)
	got, err := c.Hibernate(r.t.Context(), r.request(), sb.ID)
	if err != nil || got.State != models.Hibernated || got.Host != "" || got.Archive == nil || !got.Cold {
		r.t.Fatalf("hibernate: %+v, %v", got, err)
	}
	return got
}

// TestHibernateAndResume: by many at once and repeated, each is done once; nothing is left on the host, and it goes on.
func TestHibernateAndResume(t *testing.T) {
	r := newRig(t)
	c, other := r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if got, err := []*replica{c, other}[i%2].Hibernate(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Hibernated {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Hibernating, models.Hibernated)
	r.holds(0)
	audit, err := r.store.AuditLog(t.Context(), r.by.Account, 2)
	if err != nil || audit[0].Action != auditHibernate || audit[0].Outcome != "ok" || audit[1].Outcome != "accepted" {
		t.Errorf("audit %+v, %v", audit, err)
	}
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(models.AsError(err).Hint, "/resume") {
		t.Errorf("pause of what is hibernated: %v", err)
	}
	for range 16 {
		wg.Go(func() {
			g, err := other.Guest(t.Context(), r.by.Account, sb.ID)
			if err == nil {
				_, err = g.Metrics(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	now := r.becomes(sb.ID, models.Running)
	if _, resumes := r.sim.Sleeps(); resumes != 1 || now.Host == "" || now.Cold || now.Resumed == nil || now.Archive == nil {
		t.Errorf("after %d resumes it is %+v", resumes, now)
	}
	if gone, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
		t.Errorf("destroy: %+v, %v", gone, err)
	}
	r.holds(0)
	if keys := r.sim.Objects().Keys(); len(keys) > 0 {
		t.Errorf("of a destroyed sandbox there are stored %v", keys)
	}
}

// TestDestroyOfTheHibernated: from there too it leaves nothing; where the object store is away, what is stored goes when it is back.
func TestDestroyOfTheHibernated(t *testing.T) {
	r := newRig(t)
	pace := quick
	pace.Archive = 100 * time.Millisecond
	c := r.start(r.store, Limits{}, pace)
	sb, kept := r.hibernated(c), r.hibernated(c)
	r.sim.Objects().Down(models.Errorf(models.Unavailable, "the object store cannot be reached"))
	if gone, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
		t.Errorf("destroy: %+v, %v", gone, err)
	}
	if keys := r.sim.Objects().Keys(); len(keys) != 2 {
		t.Errorf("stored are %v", keys)
	}
	r.sim.Objects().Leave(string(kept.ID) + "-pause-0.0") // of an earlier sleep
	r.sim.Objects().Leave("sb-ffffffff-pause-1.1")        // of another installation
	r.sim.Objects().Leave("named-1.1")                    // of another kind
	r.sim.Objects().Down(nil)
	want := []string{kept.Archive.Key, "named-1.1", "sb-ffffffff-pause-1.1"}
	slices.Sort(want)
	r.eventually("what nobody needs is gone", func() bool { return slices.Equal(r.sim.Objects().Keys(), want) })
	before := r.sim.Objects().Collections()
	r.eventually("chunks are collected", func() bool { return r.sim.Objects().Collections() > before })
}

// TestSleepsAgain: a sandbox that runs needs what it was woken from while its memory comes from there, and keeps it; where that does not come it sleeps again, with the reason, and
// keeps it still.
func TestSleepsAgain(t *testing.T) {
	r := newRig(t)
	pace := quick
	pace.Archive = 100 * time.Millisecond
	c := r.start(r.store, Limits{}, pace)
	sb := r.hibernated(c)
	if _, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	tidied := func() {
		before := r.sim.Objects().Collections()
		r.eventually("the store is tidied", func() bool { return r.sim.Objects().Collections() > before+1 })
		if keys := r.sim.Objects().Keys(); !slices.Equal(keys, []string{sb.Archive.Key}) {
			t.Errorf("of what it needs there is %v", keys)
		}
	}
	tidied()
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_PAUSED, "its memory could not be brought back")
	if now := r.becomes(sb.ID, models.Paused); now.Reason != "its memory could not be brought back" {
		t.Errorf("it is %+v", now)
	}
	tidied()
}

// TestHibernateThatFails: it sleeps or runs as it was, with the reason, and can be tried again.
func TestHibernateThatFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	running, paused := r.create(c), r.asleep(c)
	r.sim.Objects().Down(models.Errorf(models.Unavailable, "the object store cannot be reached"))
	if got, err := c.Hibernate(t.Context(), r.request(), running.ID); models.CodeOf(err) != models.Unavailable || got.State != models.Running {
		t.Errorf("of a running one: %+v, %v", got, err)
	}
	if _, err := c.Hibernate(t.Context(), r.request(), paused.ID); models.CodeOf(err) != models.Unavailable {
		t.Errorf("of a paused one: %v", err)
	}
	r.becomes(running.ID, models.Running)
	if now := r.becomes(paused.ID, models.Paused); now.Reason != "the object store cannot be reached" {
		t.Errorf("reason %q", now.Reason)
	}
	r.sim.Objects().Down(nil)
	for _, sb := range []models.Sandbox{running, paused} {
		if got, err := c.Hibernate(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Hibernated || got.Reason != "" {
			t.Errorf("again: %+v, %v", got, err)
		}
	}
	r.sim.Objects().Down(models.Errorf(models.Deadline, "the object store did not answer in time"))
	if _, err := c.Resume(t.Context(), r.request(), paused.ID); models.CodeOf(err) != models.Deadline {
		t.Errorf("resume: %v", err)
	}
	if now := r.becomes(paused.ID, models.Hibernated); now.Reason != "the object store did not answer in time" || now.Host != "" {
		t.Errorf("it is %+v", now)
	}
	r.holds(0)
	r.sim.Objects().Down(nil)
	r.sim.OnSleep(func(context.Context, *pb.Sandbox) error { return models.Errorf(models.Unavailable, "a hook failed") }, nil)
	if _, err := c.Resume(t.Context(), r.request(), paused.ID); models.CodeOf(err) != models.Unavailable {
		t.Errorf("resume of one whose guest fails: %v", err)
	}
	if now := r.becomes(paused.ID, models.Paused); now.Reason != "a hook failed" || now.Host == "" || now.Cold {
		t.Errorf("it is %+v", now)
	}
	r.sim.OnSleep(nil, nil)
	if _, err := c.Resume(t.Context(), r.request(), paused.ID); err != nil {
		t.Error(err)
	}
	r.becomes(paused.ID, models.Running)
}

// TestResumeBeatsHibernation: who wants the sandbox does not wait for an upload, and nothing is removed.
func TestResumeBeatsHibernation(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.asleep(c)
	under := make(chan struct{})
	r.sim.OnStore(func(ctx context.Context, _ *pb.Sandbox) error {
		close(under)
		r.becomes(sb.ID, models.Resuming)
		return models.Errorf(models.Conflict, "it is being resumed")
	}, nil)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Hibernate(t.Context(), r.request(), sb.ID)
		ended <- err
	}()
	<-under
	if got, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Running {
		t.Errorf("resume: %+v, %v", got, err)
	}
	if err := <-ended; models.CodeOf(err) != models.Conflict {
		t.Errorf("hibernate: %v", err)
	}
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Hibernating, models.Resuming, models.Running)
	r.holds(1)
}

// TestReleaseThatFails: what its host still holds of a hibernated sandbox is removed later, and never what has come back meanwhile.
func TestReleaseThatFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	r.sim.OnStore(nil, func(context.Context, string) error { return errors.New("no") })
	sb := r.hibernated(c)
	r.holds(1)
	if got, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Running {
		t.Errorf("a resume where a copy is left: %+v, %v", got, err)
	}
	if got, err := c.Hibernate(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Hibernated {
		t.Errorf("hibernate: %+v, %v", got, err)
	}
	r.holds(1)
	r.sim.OnStore(nil, nil)
	r.start(r.store, Limits{}, quick)
	r.holds(0)
	r.becomes(sb.ID, models.Hibernated)
}

// TestCopyOfWhatCameBack: a copy that is found beside the row of a hibernated sandbox is let go only as what was stored.
func TestCopyOfWhatCameBack(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	var late func()
	r.sim.OnStore(nil, func(context.Context, string) error { return errors.New("no") })
	sb := r.hibernated(c)
	r.sim.OnStore(nil, func(context.Context, string) error { // the reconciler has decided; before its call arrives the sandbox goes on here
		r.sim.OnStore(nil, nil)
		late()
		return nil
	})
	resumed := make(chan struct{})
	late = func() {
		defer close(resumed)
		if got, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Running {
			t.Errorf("resume: %+v, %v", got, err)
		}
	}
	r.start(r.store, Limits{}, quick)
	select {
	case <-resumed:
	case <-time.After(patienceOfTests):
		t.Fatal("its host was never told to let go of what is stored")
	}
	time.Sleep(5 * quick.Grace) // whatever the reconciler would do it has done
	if state := r.sim.State(string(sb.ID)); state != pb.SandboxState_SANDBOX_STATE_RUNNING {
		t.Errorf("on its host it is %s", state)
	}
	r.becomes(sb.ID, models.Running)
}

// TestControlPlaneKilledDuringHibernation kills a control plane at each step of a hibernation and of the way back. The next one writes down what is true.
func TestControlPlaneKilledDuringHibernation(t *testing.T) {
	for _, c := range []struct {
		name          string
		resume        bool
		before, after models.State
		want          models.State
		held          int
	}{
		{name: "before it is written", before: models.Hibernating, want: models.Paused, held: 1},
		{name: "before the host is asked", after: models.Hibernating, want: models.Paused, held: 1},
		{name: "stored, before the row says so", before: models.Hibernated, want: models.Hibernated},
		{name: "before the host is told to let go", after: models.Hibernated, want: models.Hibernated},
		{name: "back, before it is written", resume: true, before: models.Resuming, want: models.Hibernated},
		{name: "back, before the host is asked", resume: true, after: models.Resuming, want: models.Hibernated},
		{name: "back, before the row says so", resume: true, before: models.Running, want: models.Running, held: 1},
		{name: "back, after the end", resume: true, after: models.Running, want: models.Running, held: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dying := &mortal{Store: r.store}
			first := r.start(dying, Limits{}, Pace{})
			sb := r.asleep(first)
			op := first.Hibernate
			if c.resume {
				op = first.Resume
				if _, err := first.Hibernate(t.Context(), r.request(), sb.ID); err != nil {
					t.Fatal(err)
				}
			}
			dying.diesBefore, dying.diesAfter = string(c.before), string(c.after)
			if _, err := op(t.Context(), r.request(), sb.ID); err == nil {
				t.Fatal("a dead control plane has answered")
			}
			first.end()
			r.start(r.store, Limits{}, quick)
			r.becomes(sb.ID, c.want)
			r.holds(c.held)
			r.becomes(sb.ID, c.want)
		})
	}
}

// TestAgentKilledDuringHibernation: what the agent says when it is back is what is true.
func TestAgentKilledDuringHibernation(t *testing.T) {
	for _, fetch := range []bool{false, true} {
		r := newRig(t)
		c := r.start(r.store, Limits{}, quick)
		sb := r.asleep(c)
		by, want, op := models.Hibernating, models.Paused, c.Hibernate
		if fetch {
			by, want, op = models.Resuming, models.Hibernated, c.Resume
			if _, err := c.Hibernate(t.Context(), r.request(), sb.ID); err != nil {
				t.Fatal(err)
			}
		}
		r.sim.OnStore(func(context.Context, *pb.Sandbox) error {
			go r.sim.Kill()
			r.eventually("the agent's end is seen", func() bool { return !c.Fleet.Status()[0].Up })
			return errors.New("killed")
		}, nil)
		ended := make(chan error, 1)
		go func() {
			_, err := op(t.Context(), r.request(), sb.ID)
			ended <- err
		}()
		r.eventually("the agent has been killed", func() bool { return !c.Fleet.Status()[0].Up })
		r.becomes(sb.ID, by)
		r.sim.OnStore(nil, nil)
		r.sim.Restart()
		if err := <-ended; models.CodeOf(err) != models.Unavailable {
			t.Errorf("fetch %v: %v", fetch, err)
		}
		r.becomes(sb.ID, want)
	}
}

// TestResumeElsewhere: a hibernated sandbox goes on on another host that fits, where its own is away; where none does, it is said why.
func TestResumeElsewhere(t *testing.T) {
	r := newRig(t)
	second := hostsim.Start(t)
	second.Share(r.sim)
	second.Describe(func(i *pb.GetHostInfoResponse) { i.HostId, i.DriverVersion = "host-0000beef", "1" })
	c := r.startWith(r.store, Limits{}, quick, r.sim.Address(), second.Address())
	r.eventually("both hosts are reachable", func() bool { return len(c.Fleet.reachable()) == 2 && c.Fleet.Status()[1].Up })
	sb := r.hibernated(c)
	r.sim.Kill()
	r.eventually("the first host is away", func() bool { return !c.Fleet.Status()[0].Up })
	if _, err := c.Resume(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "qemu 1 (tcg)") {
		t.Errorf("resume where no VMM fits: %v", err)
	}
	r.becomes(sb.ID, models.Hibernated)
	second.Describe(func(i *pb.GetHostInfoResponse) { i.DriverVersion = "0" })
	second.EndWatches()
	r.eventually("it goes on there", func() bool {
		got, err := c.Resume(t.Context(), r.request(), sb.ID)
		return err == nil && got.State == models.Running && got.Host == "host-0000beef"
	})
	r.sim.Restart()
	if got, err := c.Hibernate(t.Context(), r.request(), sb.ID); err != nil || got.State != models.Hibernated {
		t.Errorf("hibernate: %+v, %v", got, err)
	}
	if _, _, n := second.Counts(); n != 0 {
		t.Errorf("the second host holds %d sandboxes", n)
	}
}

// TestHostReplacedDuringTheWayBack: what was to go on on a host that is no more is in the object store still.
func TestHostReplacedDuringTheWayBack(t *testing.T) {
	r := newRig(t)
	dying := &mortal{Store: r.store}
	first := r.start(dying, Limits{}, Pace{})
	sb := r.hibernated(first)
	dying.diesAfter = string(models.Resuming)
	if _, err := first.Resume(t.Context(), r.request(), sb.ID); err == nil {
		t.Fatal("a dead control plane has answered")
	}
	first.end()
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = "host-0000ffff" })
	c := r.start(r.store, Limits{}, quick)
	r.becomes(sb.ID, models.Hibernated)
	if got, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || got.Host != "host-0000ffff" {
		t.Errorf("resume: %+v, %v", got, err)
	}
}
