package lifecycle

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var (
	states = []models.State{
		models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Resuming, models.Stopping, models.Stopped, models.Failed,
		models.Hibernating, models.Hibernated,
	}
	events = []Event{Placed, Started, Pause, Froze, Resume, Woke, Undone, Failed, Destroy, Freed, Hibernate, Stored, Unfetched, Moved}
)

// TestEveryTransition names each of the 154 pairs: a new state or event must be decided here.
func TestEveryTransition(t *testing.T) {
	const no = models.State("")
	want := map[models.State][14]models.State{
		//               placed           started         pause           froze          resume           woke            undone          failed         destroy          freed           hibernate           stored             unfetched           moved
		models.Pending:  {models.Starting, no, no, no, no, no, no, models.Failed, models.Stopping, no, no, no, no, no},
		models.Starting: {no, models.Running, no, no, no, no, no, models.Failed, models.Stopping, no, no, no, no, models.Starting},
		models.Running:  {no, no, models.Pausing, models.Paused, no, no, no, models.Failed, models.Stopping, no, no, no, no, no},
		models.Pausing:  {no, no, no, models.Paused, no, no, models.Running, models.Failed, models.Stopping, no, no, no, no, no},
		models.Paused:   {no, no, no, no, models.Resuming, models.Running, no, models.Failed, models.Stopping, no, models.Hibernating, no, no, no},
		models.Resuming: {no, no, no, no, no, models.Running, models.Paused, models.Failed, models.Stopping, no, no, no, models.Hibernated, no},
		models.Failed:   {no, no, no, no, no, no, no, no, models.Stopping, no, no, no, no, no},
		models.Stopping: {no, no, no, no, no, no, no, no, no, models.Stopped, no, no, no, no},
		models.Stopped:  {no, no, no, no, no, no, no, no, no, no, no, no, no, no},

		models.Hibernating: {no, no, no, no, models.Resuming, models.Running, models.Paused, models.Failed, models.Stopping, no, no, models.Hibernated, no, no},
		models.Hibernated:  {no, no, no, no, models.Resuming, no, no, no, models.Stopping, no, no, no, no, no},
	}
	if len(want) != len(table) {
		t.Fatalf("the table has %d states, the test %d", len(table), len(want))
	}
	for from, row := range want {
		for i, to := range row {
			got, err := Next(from, events[i])
			if got != to || (err == nil) != (to != no) {
				t.Errorf("Next(%s, %s) = %q, %v; want %q", from, events[i], got, err, to)
			}
			if err != nil && models.CodeOf(err) != models.Precondition {
				t.Errorf("Next(%s, %s) fails with code %s", from, events[i], models.CodeOf(err))
			}
		}
	}
}

// TestDestroyFromAnywhere: from every state that any sequence of events leads to, a
// destroy and the host's word end in stopped, and nothing leaves stopped.
func TestDestroyFromAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := models.Pending
		for _, e := range rapid.SliceOf(rapid.SampledFrom(events)).Draw(t, "events") {
			if to, err := Next(s, e); err == nil {
				s = to
			}
		}
		for _, e := range []Event{Destroy, Freed} {
			if to, err := Next(s, e); err == nil {
				s = to
			}
		}
		if s != models.Stopped {
			t.Fatalf("ended in %s", s)
		}
	})
}

func TestPassing(t *testing.T) {
	for _, s := range states {
		want := s != models.Running && s != models.Paused && s != models.Hibernated && s != models.Stopped && s != models.Failed
		if Passing(s) != want {
			t.Errorf("Passing(%s) = %v", s, !want)
		}
		if (UnderWay(s) != "") != Passing(s) {
			t.Errorf("%s: operation %q, passing %v: a passing state must belong to an operation", s, UnderWay(s), Passing(s))
		}
	}
}

func TestMeet(t *testing.T) {
	for _, c := range []struct {
		request, running Operation
		want             Verdict
	}{
		{DestroyOp, CreateOp, TakesOver}, {DestroyOp, DestroyOp, Joins},
		{CreateOp, CreateOp, Joins}, {CreateOp, DestroyOp, Refused},
		{PauseOp, PauseOp, Joins}, {PauseOp, ResumeOp, Follows}, {PauseOp, CreateOp, Refused}, {PauseOp, DestroyOp, Refused},
		{ResumeOp, ResumeOp, Joins}, {ResumeOp, PauseOp, Follows}, {ResumeOp, CreateOp, Refused}, {ResumeOp, DestroyOp, Refused},
		{DestroyOp, PauseOp, TakesOver}, {DestroyOp, ResumeOp, TakesOver}, {DestroyOp, HibernateOp, TakesOver},
		{HibernateOp, HibernateOp, Joins}, {HibernateOp, PauseOp, Follows}, {HibernateOp, ResumeOp, Follows}, {HibernateOp, CreateOp, Refused},
		{PauseOp, HibernateOp, Follows}, {ResumeOp, HibernateOp, TakesOver},
	} {
		if got := Meet(c.request, c.running); got != c.want {
			t.Errorf("%s during %s %s, want %s", c.request, c.running, got, c.want)
		}
	}
}
