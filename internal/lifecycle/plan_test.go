package lifecycle

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func minutes(n int) time.Time { return epoch.Add(time.Duration(n) * time.Minute) }

// all is a lifecycle with a part for every state. What each is due at, of a sandbox that was used until 0, or sleeps since then: 10, 20, 30; its timeout ends at 40.
func all(state models.State, on models.TimeoutAction) models.Sandbox {
	return models.Sandbox{
		State: state, UsedUntil: epoch, AsleepSince: epoch, TimeoutAt: minutes(40),
		Lifecycle: models.Lifecycle{AutoPause: 10 * time.Minute, AutoHibernate: 20 * time.Minute, AutoDestroy: 30 * time.Minute, Timeout: time.Hour, OnTimeout: on},
	}
}

func TestSteps(t *testing.T) {
	type step struct {
		op    Operation
		cause Cause
		at    int // minutes
	}
	for state, want := range map[models.State][]step{
		models.Pending: nil, models.Starting: nil, models.Pausing: nil, models.Resuming: nil, models.Hibernating: nil, models.Stopping: nil, models.Stopped: nil,
		models.Running:    {{PauseOp, AutoPause, 10}, {DestroyOp, Timeout, 40}},
		models.Paused:     {{HibernateOp, AutoHibernate, 20}, {DestroyOp, AutoDestroy, 30}, {DestroyOp, Timeout, 40}},
		models.Hibernated: {{DestroyOp, AutoDestroy, 30}, {DestroyOp, Timeout, 40}},
		models.Failed:     {{DestroyOp, AutoDestroy, 30}, {DestroyOp, Timeout, 40}},
	} {
		for _, on := range []models.TimeoutAction{models.DestroyOnTimeout, models.PauseOnTimeout} {
			var got []step
			for _, s := range Steps(all(state, on)) {
				got = append(got, step{s.Operation, s.Cause, int(s.At.Sub(epoch) / time.Minute)})
			}
			if on == models.PauseOnTimeout {
				want = slices.DeleteFunc(slices.Clone(want), func(s step) bool { return s.cause == Timeout && state != models.Running })
				for i := range want {
					want[i].op = map[bool]Operation{true: PauseOp, false: want[i].op}[want[i].cause == Timeout]
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, on timeout %s: %v, want %v", state, on, got, want)
			}
		}
	}
	if got := Steps(models.Sandbox{State: models.Running, UsedUntil: epoch}); got != nil {
		t.Errorf("without a lifecycle: %v", got)
	}
}

func TestDue(t *testing.T) {
	damaged := all(models.Paused, models.DestroyOnTimeout)
	damaged.Damage = "its snapshot is damaged"
	running, paused := all(models.Running, models.DestroyOnTimeout), all(models.Paused, models.DestroyOnTimeout)
	for _, c := range []struct {
		name string
		sb   models.Sandbox
		at   int
		want Operation
		why  string
	}{
		{"in use", running, 9, "", ""},
		{"idle", running, 10, PauseOp, "nobody used it for 10m0s"},
		{"idle, and its time is up", running, 40, DestroyOp, "its timeout of 1h0m0s has ended"},
		{"asleep", paused, 19, "", ""},
		{"asleep for a while", paused, 20, HibernateOp, "it was paused for 20m0s"},
		{"what is damaged is not stored", damaged, 20, "", ""},
		{"on no host", all(models.Hibernated, models.DestroyOnTimeout), 29, "", ""},
		{"asleep for long", paused, 30, DestroyOp, "nobody wanted it for 30m0s"},
		{"on its way to sleep", all(models.Pausing, models.DestroyOnTimeout), 1000, "", ""},
	} {
		step, due := Due(c.sb, minutes(c.at))
		if step.Operation != c.want || step.Reason != c.why || due != (c.want != "") {
			t.Errorf("%s: %+v, %v", c.name, step, due)
		}
	}
}

// TestDueIsAllowed: whatever a sandbox is like, what is due is one of its steps, its time has come, it can be taken from the state that the sandbox is in, and
// nothing was left out.
func TestDueIsAllowed(t *testing.T) {
	length := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(0, 5).Draw(t, "minutes")) * time.Minute
	})
	at := rapid.Custom(func(t *rapid.T) time.Time { return minutes(rapid.IntRange(0, 9).Draw(t, "at")) })
	rapid.Check(t, func(t *rapid.T) {
		sb := models.Sandbox{
			State: rapid.SampledFrom(states).Draw(t, "state"), UsedUntil: at.Draw(t, "used"), AsleepSince: at.Draw(t, "asleep"), TimeoutAt: at.Draw(t, "timeout"),
			Lifecycle: models.Lifecycle{
				AutoPause: length.Draw(t, "pause"), AutoHibernate: length.Draw(t, "hibernate"), AutoDestroy: length.Draw(t, "destroy"),
				OnTimeout: rapid.SampledFrom([]models.TimeoutAction{models.DestroyOnTimeout, models.PauseOnTimeout}).Draw(t, "on timeout"),
			},
		}
		now := at.Draw(t, "now")
		steps := Steps(sb)
		step, due := Due(sb, now)
		if due != (len(steps) > 0 && !steps[0].At.After(now)) {
			t.Fatalf("of %+v at %s %+v is due: %v", steps, now, step, due)
		}
		if !due {
			return
		}
		event := map[Operation]Event{PauseOp: Pause, HibernateOp: Hibernate, DestroyOp: Destroy}[step.Operation]
		if _, err := Next(sb.State, event); err != nil || step.At.After(now) || !slices.Contains(steps, step) || step.Reason == "" {
			t.Fatalf("%s of %+v at %s: %+v, %v", sb.State, sb.Lifecycle, now, step, err)
		}
	})
}
