package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Cause is which part of a sandbox's lifecycle has a step in store. The values equal those of the API.
type Cause string

// The causes.
const (
	AutoPause     Cause = "auto_pause"
	AutoHibernate Cause = "auto_hibernate"
	AutoDestroy   Cause = "auto_destroy"
	Timeout       Cause = "timeout"
)

// Step is what will happen to a sandbox by itself if nothing happens to it before.
type Step struct {
	Operation Operation
	At        time.Time
	Cause     Cause
	Reason    string // why, for the sandbox's user
}

// Steps returns what a sandbox's lifecycle has in store for it as it is, the first one first. One on its way from one state to another has
// nothing in store until it has arrived.
func Steps(sb models.Sandbox) []Step {
	var all []Step
	add := func(op Operation, cause Cause, from time.Time, after time.Duration, why string) {
		if after > 0 && !from.IsZero() {
			all = append(all, Step{Operation: op, At: from.Add(after), Cause: cause, Reason: fmt.Sprintf(why, after)})
		}
	}
	l := sb.Lifecycle
	switch sb.State {
	case models.Running:
		add(PauseOp, AutoPause, sb.UsedUntil, l.AutoPause, "nobody used it for %s")
	case models.Paused, models.Hibernated, models.Failed:
		if sb.State == models.Paused && sb.Damage == "" {
			add(HibernateOp, AutoHibernate, sb.AsleepSince, l.AutoHibernate, "it was paused for %s")
		}
		add(DestroyOp, AutoDestroy, sb.AsleepSince, l.AutoDestroy, "nobody wanted it for %s")
	default:
		return nil
	}
	if step, ends := timeout(sb); ends {
		all = append(all, step)
	}
	slices.SortStableFunc(all, func(x, y Step) int { return x.At.Compare(y.At) })
	return all
}

// timeout is the end of a sandbox's timeout, if that changes anything for it.
func timeout(sb models.Sandbox) (Step, bool) {
	step := Step{Operation: DestroyOp, At: sb.TimeoutAt, Cause: Timeout, Reason: fmt.Sprintf("its timeout of %s has ended", sb.Lifecycle.Timeout)}
	if sb.Lifecycle.OnTimeout == models.PauseOnTimeout {
		step.Operation = PauseOp
	}
	return step, !sb.TimeoutAt.IsZero() && (step.Operation == DestroyOp || sb.State == models.Running)
}

// Due returns the step that is to be taken at now, if there is one. What is to be destroyed is not put to sleep before.
func Due(sb models.Sandbox, now time.Time) (Step, bool) {
	var due Step
	found := false
	for _, step := range Steps(sb) {
		if !step.At.After(now) && (!found || step.Operation == DestroyOp && due.Operation != DestroyOp) {
			due, found = step, true
		}
	}
	return due, found
}
