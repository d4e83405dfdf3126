// Package lifecycle is the state table of a sandbox, as pure functions. Who may write a
// state, and how a write is made safe, is the business of lifecycle/controller and db.
package lifecycle

import (
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Event is what happens to a sandbox.
type Event string

// The events that are built so far.
const (
	Placed  Event = "placed"  // a host was chosen, the creation begins there
	Moved   Event = "moved"   // its host could not make it, and another one is to
	Started Event = "started" // its envd has answered
	Failed  Event = "failed"  // it could not be made, or its VM ended unasked
	Pause   Event = "pause"   // somebody asked for it to sleep
	Froze   Event = "froze"   // its snapshot is in place, and its VM has ended
	Resume  Event = "resume"  // somebody asked for it to go on
	Woke    Event = "woke"    // its guest runs again, and has renewed what it must
	Undone  Event = "undone"  // what was asked for failed, and it is as it was
	Destroy Event = "destroy" // somebody asked for its end
	Freed   Event = "freed"   // its host holds nothing of it any more

	Hibernate Event = "hibernate" // somebody asked for it to sleep without a host
	Stored    Event = "stored"    // its snapshot is in the object store, whole
	Unfetched Event = "unfetched" // it was to go on, and no host holds anything of it: it is in the object store as it was
)

// table says which state follows from a state and an event. What is not in it is refused.
var table = map[models.State]map[Event]models.State{
	models.Pending:  {Placed: models.Starting, Failed: models.Failed, Destroy: models.Stopping},
	models.Starting: {Moved: models.Starting, Started: models.Running, Failed: models.Failed, Destroy: models.Stopping},
	// A host may end what nobody waits for any more: Froze and Woke come without having been asked for, too.
	models.Running:  {Pause: models.Pausing, Froze: models.Paused, Failed: models.Failed, Destroy: models.Stopping},
	models.Pausing:  {Froze: models.Paused, Undone: models.Running, Failed: models.Failed, Destroy: models.Stopping},
	models.Paused:   {Resume: models.Resuming, Woke: models.Running, Hibernate: models.Hibernating, Failed: models.Failed, Destroy: models.Stopping},
	models.Resuming: {Woke: models.Running, Undone: models.Paused, Unfetched: models.Hibernated, Failed: models.Failed, Destroy: models.Stopping},
	// It is on its host until it is stored, so a resume need not wait for that.
	models.Hibernating: {
		Stored: models.Hibernated, Undone: models.Paused, Resume: models.Resuming, Woke: models.Running, Failed: models.Failed, Destroy: models.Stopping,
	},
	models.Hibernated: {Resume: models.Resuming, Destroy: models.Stopping},
	models.Failed:     {Destroy: models.Stopping},
	// A destroy that has begun is never given up: it cannot fail, only take long.
	models.Stopping: {Freed: models.Stopped},
	models.Stopped:  {},
}

// Next returns the state that follows, or a Precondition error.
func Next(from models.State, e Event) (models.State, error) {
	if to, ok := table[from][e]; ok {
		return to, nil
	}
	return "", models.Errorf(models.Precondition, "a sandbox in state %s cannot take the event %s", from, e)
}

// Passing tells whether a state should pass by itself. Such a state has a deadline after
// which the reconciler asks the host and converges to another state.
func Passing(s models.State) bool { return UnderWay(s) != "" }

// Operation is a request that changes a sandbox's state and takes a while.
type Operation string

// The operations that are built so far.
const (
	CreateOp    Operation = "create"
	PauseOp     Operation = "pause"
	ResumeOp    Operation = "resume"
	HibernateOp Operation = "hibernate"
	DestroyOp   Operation = "destroy"
)

// underWay is the operation that a passing state belongs to.
var underWay = map[models.State]Operation{
	models.Pending: CreateOp, models.Starting: CreateOp, models.Pausing: PauseOp, models.Resuming: ResumeOp, models.Hibernating: HibernateOp,
	models.Stopping: DestroyOp,
}

// UnderWay returns the operation that a sandbox in state s undergoes, "" for none.
func UnderWay(s models.State) Operation { return underWay[s] }

// Verdict says what becomes of a request that meets another one under way.
type Verdict string

// The verdicts.
const (
	TakesOver Verdict = "takes over" // it ends the one under way
	Joins     Verdict = "joins"      // it shares the outcome of the one under way
	Follows   Verdict = "follows"    // it waits for the end of the one under way
	Refused   Verdict = "refused"
)

// Meet says what becomes of request when it meets running. Destroy beats all, and a resume a hibernation, which may take long; else what has to do
// with sleep takes turns.
func Meet(request, running Operation) Verdict {
	if request == running {
		return Joins
	}
	switch {
	case request == DestroyOp, request == ResumeOp && running == HibernateOp:
		return TakesOver
	case ofSleep[request] && ofSleep[running]:
		return Follows
	}
	return Refused
}

var ofSleep = map[Operation]bool{PauseOp: true, ResumeOp: true, HibernateOp: true}
