package controller

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// asleep returns a sandbox that is paused.
func (r *rig) asleep(c *replica) models.Sandbox {
	r.t.Helper()
	sb := r.create(c)
	paused, err := c.Pause(r.t.Context(), r.request(), sb.ID)
	if err != nil || paused.State != models.Paused {
		r.t.Fatalf("pause: %+v, %v", paused, err)
	}
	return paused
}

// TestPauseAndResume: repeated, and by many at once, each is done once, and is in the audit log.
func TestPauseAndResume(t *testing.T) {
	r := newRig(t)
	c, other := r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	all := func(op func(*replica) (models.Sandbox, error), want models.State) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if got, err := op([]*replica{c, other}[i%2]); err != nil || got.State != want {
					t.Errorf("%+v, %v; want %s", got, err, want)
				}
			})
		}
		wg.Wait()
	}
	all(func(c *replica) (models.Sandbox, error) { return c.Pause(t.Context(), r.request(), sb.ID) }, models.Paused)
	all(func(c *replica) (models.Sandbox, error) { return c.Resume(t.Context(), r.request(), sb.ID) }, models.Running)
	if pauses, resumes := r.sim.Sleeps(); pauses != 1 || resumes != 1 {
		t.Errorf("the host has paused it %d times and resumed it %d times", pauses, resumes)
	}
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Resuming, models.Running)
	now := r.becomes(sb.ID, models.Running)
	if now.Resumed == nil || len(now.Resumed.Steps) != 3 || now.Resumed.Steps[2].Output != "hello" || !now.Resumed.Steps[1].Kept {
		t.Errorf("its certificate is %+v", now.Resumed)
	}
	audit, err := r.store.AuditLog(t.Context(), r.by.Account, 4)
	if err != nil || audit[0].Action != auditResume || audit[0].Outcome != "ok" || audit[3].Action != auditPause || audit[3].Outcome != "accepted" {
		t.Errorf("audit %+v, %v", audit, err)
	}
	r.asleep(c)
	for _, from := range []models.State{models.Running, models.Paused} {
		if gone, err := c.Destroy(t.Context(), r.request(), r.in(from).ID); err != nil || gone.State != models.Stopped {
			t.Errorf("destroy from %s: %+v, %v", from, gone, err)
		}
	}
	if _, err := c.Resume(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Precondition {
		t.Errorf("resume of a destroyed sandbox: %v", err)
	}
	r.holds(0)
}

// TestOneResumeForManyRequests: they are held until it runs, whoever asks; where the user wants to decide they are refused.
func TestOneResumeForManyRequests(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.asleep(c)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			g, err := c.Guest(t.Context(), r.by.Account, sb.ID)
			if err == nil {
				_, err = g.Metrics(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, resumes := r.sim.Sleeps(); resumes != 1 {
		t.Errorf("%d resumes", resumes)
	}
	manual, err := c.Create(t.Context(), r.request(), Request{Template: "minimal", ManualResume: true})
	if err == nil {
		_, err = c.Pause(t.Context(), r.request(), manual.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Guest(t.Context(), r.by.Account, manual.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(models.AsError(err).Hint, "/resume") {
		t.Errorf("a request to one that its user resumes himself: %v", err)
	}
}

// TestRequestDuringPause: one that has begun when the sandbox is put to sleep is held too, and one is not held for ever.
func TestRequestDuringPause(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Wake: 200 * time.Millisecond}, Pace{})
	sb := r.create(c)
	g := r.guest(c, sb.ID)
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Metrics(t.Context()); err != nil {
		t.Errorf("a client from before the pause: %v", err)
	}
	release := make(chan struct{})
	r.sim.OnSleep(func(_ context.Context, sb *pb.Sandbox) error {
		if sb.GetState() == pb.SandboxState_SANDBOX_STATE_RESUMING {
			<-release
		}
		return nil
	}, nil)
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Guest(t.Context(), r.by.Account, sb.ID); models.CodeOf(err) != models.Deadline {
		t.Errorf("a request whose sandbox does not come: %v", err)
	}
	close(release)
	r.becomes(sb.ID, models.Running)
}

// TestSleepThatFails: it is as it was, or has failed, as its host says, and the reason is there.
func TestSleepThatFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	refuse := func(context.Context, *pb.Sandbox) error {
		return models.Errorf(models.Exhausted, "the host's disk is full")
	}
	sb := r.create(c)
	r.sim.OnSleep(refuse, nil)
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Exhausted {
		t.Errorf("pause: %v", err)
	}
	if now := r.becomes(sb.ID, models.Running); now.Reason != "the host's disk is full" {
		t.Errorf("reason %q", now.Reason)
	}
	r.sim.OnSleep(nil, nil)
	if paused, err := c.Pause(t.Context(), r.request(), sb.ID); err != nil || paused.Reason != "" {
		t.Errorf("pause: %+v, %v", paused, err)
	}
	r.sim.OnSleep(refuse, nil)
	if _, err := c.Guest(t.Context(), r.by.Account, sb.ID); models.CodeOf(err) != models.Exhausted {
		t.Errorf("a request: %v", err)
	}
	if now := r.becomes(sb.ID, models.Paused); now.Reason != "the host's disk is full" {
		t.Errorf("reason %q", now.Reason)
	}
	r.sim.OnSleep(func(_ context.Context, sb *pb.Sandbox) error {
		r.sim.Put(sb.GetSandboxId(), pb.SandboxState_SANDBOX_STATE_FAILED, "its VM ended")
		return models.Errorf(models.Unavailable, "no")
	}, nil)
	if _, err := c.Resume(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Unavailable {
		t.Errorf("resume: %v", err)
	}
	if now := r.becomes(sb.ID, models.Failed); now.Reason != "its VM ended" {
		t.Errorf("reason %q", now.Reason)
	}
}

// TestPausedTakesNoMemory: another sandbox finds room, and a resume is refused while there is none.
func TestPausedTakesNoMemory(t *testing.T) {
	r := newRig(t)
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.MemoryMib = 400 })
	c := r.start(r.store, Limits{}, Pace{})
	first := r.create(c)
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Exhausted {
		t.Errorf("a second one beside it: %v", err)
	}
	if _, err := c.Pause(t.Context(), r.request(), first.ID); err != nil {
		t.Fatal(err)
	}
	second := r.create(c)
	if _, err := c.Resume(t.Context(), r.request(), first.ID); models.CodeOf(err) != models.Exhausted || !strings.Contains(err.Error(), "memory") {
		t.Errorf("resume without room: %v", err)
	}
	r.becomes(first.ID, models.Paused)
	if _, err := c.Destroy(t.Context(), r.request(), second.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resume(t.Context(), r.request(), first.ID); err != nil {
		t.Error(err)
	}
}

// TestControlPlaneKilledDuringSleep kills a control plane at each step of a pause and a resume. The next one writes down what the host did.
func TestControlPlaneKilledDuringSleep(t *testing.T) {
	for _, resume := range []bool{false, true} {
		from, by, to := models.Running, models.Pausing, models.Paused
		if resume {
			from, by, to = models.Paused, models.Resuming, models.Running
		}
		for _, c := range []struct {
			name          string
			before, after models.State
			expired       bool
			want          models.State
		}{
			{name: "before it is written", before: by, want: from},
			{name: "after that, before the host is asked", after: by, expired: true, want: from},
			{name: "after the host, before the row says so", before: to, want: to},
			{name: "after the end", after: to, want: to},
		} {
			t.Run(string(by)+" "+c.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				dying := &mortal{Store: r.store}
				first := r.start(dying, Limits{}, Pace{})
				sb := r.create(first)
				op := first.Pause
				if resume {
					op = first.Resume
					if _, err := first.Pause(t.Context(), r.request(), sb.ID); err != nil {
						t.Fatal(err)
					}
				}
				dying.diesBefore, dying.diesAfter = string(c.before), string(c.after)
				if _, err := op(t.Context(), r.request(), sb.ID); err == nil {
					t.Fatal("a dead control plane has answered")
				}
				first.end()
				if c.expired {
					r.expire(sb.ID)
				}
				r.start(r.store, Limits{}, quick)
				r.becomes(sb.ID, c.want)
				r.holds(1)
			})
		}
	}
}

// TestAgentKilledDuringSleep: what the agent says when it is back is what is true; also when nobody has waited for it.
func TestAgentKilledDuringSleep(t *testing.T) {
	for _, finished := range []bool{false, true} {
		r := newRig(t)
		c := r.start(r.store, Limits{}, Pace{})
		sb := r.create(c)
		dies := func(context.Context, *pb.Sandbox) error {
			go r.sim.Kill()
			r.eventually("the agent's end is seen", func() bool { return !c.Fleet.Status()[0].Up })
			return errors.New("killed")
		}
		if finished {
			r.sim.OnSleep(nil, func() { _ = dies(t.Context(), nil) })
		} else {
			r.sim.OnSleep(dies, nil)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := c.Pause(t.Context(), r.request(), sb.ID)
			ended <- err
		}()
		r.eventually("the agent has been killed", func() bool { return !c.Fleet.Status()[0].Up })
		r.becomes(sb.ID, models.Pausing)
		r.sim.Restart()
		err := <-ended
		if finished && err != nil || !finished && models.CodeOf(err) != models.Unavailable {
			t.Errorf("finished %v: %v", finished, err)
		}
		r.becomes(sb.ID, map[bool]models.State{false: models.Running, true: models.Paused}[finished])
	}
}

// TestSleepThatNobodyWaitedFor: a row follows its host where that has ended an operation of a control plane that is gone.
func TestSleepThatNobodyWaitedFor(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_PAUSED, "")
	r.becomes(sb.ID, models.Paused)
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_RUNNING, "")
	r.becomes(sb.ID, models.Running)
	r.asleep(c)
	lost := r.in(models.Paused)
	r.sim.Lose(string(lost.ID), false)
	if now := r.becomes(lost.ID, models.Failed); !strings.HasPrefix(now.Reason, "lost: ") {
		t.Errorf("reason %q", now.Reason)
	}
}

// TestDestroyBeatsSleep: it ends what is under way.
func TestDestroyBeatsSleep(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.sim.OnSleep(func(context.Context, *pb.Sandbox) error {
		if _, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil {
			t.Error(err)
		}
		return models.Errorf(models.Conflict, "it was destroyed")
	}, nil)
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Conflict {
		t.Errorf("pause: %v", err)
	}
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Stopping, models.Stopped)
	r.holds(0)
}

// TestPolicyWhilePaused: the network policy can be changed, and a sandbox never wakes under an older one.
func TestPolicyWhilePaused(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.asleep(c)
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, allowing(t, "a.example")); err != nil {
		t.Fatal(err)
	}
	inForce := func() int64 { return r.sim.Network(string(sb.ID), nil).GetPolicy().GetGeneration() }
	if told, err := c.Network(t.Context(), r.by.Account, sb.ID); err != nil || !told.InForce() || inForce() != 2 {
		t.Errorf("%+v, %v", told, err)
	}
	r.sim.OnNetwork(func(*pb.SetNetworkPolicyRequest) error { return models.Errorf(models.Unavailable, "no") })
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, allowing(t, "b.example")); models.CodeOf(err) != models.Unavailable {
		t.Errorf("a host that cannot be told: %v", err)
	}
	if _, err := c.Resume(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Unavailable {
		t.Errorf("resume under an older policy: %v", err)
	}
	r.in(models.Paused)
	r.sim.OnNetwork(nil)
	r.sim.OnSleep(func(context.Context, *pb.Sandbox) error {
		if got := inForce(); got != 3 {
			t.Errorf("it wakes under the policy of generation %d", got)
		}
		return nil
	}, nil)
	if _, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil {
		t.Error(err)
	}
}
