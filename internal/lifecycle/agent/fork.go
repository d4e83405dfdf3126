package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// Child is a sandbox that a fork makes.
type Child struct {
	ID      id.Sandbox
	Network models.NetworkPolicy
}

// restoredAtOnce bounds how many children of a fork are restored side by side.
const restoredAtOnce = 8

// Fork makes running children of a running or paused sandbox, each with the memory and the disk that it has at one instant, and returns once their guests have
// renewed what must be their own. The parent stands still for that instant and goes on, or sleeps on; what happens to it afterwards does not
// matter. All children are made, or none: after an error nothing of any is left. A caller that goes away does not end it, the destroy of a child does. For children
// that exist it returns those: a repeated request is answered like the first.
func (a *Agent) Fork(ctx context.Context, parent id.Sandbox, children []Child) ([]Sandbox, error) {
	if err := checkChildren(children); err != nil {
		return nil, err
	}
	s, err := a.find(parent)
	if err != nil {
		return nil, err
	}
	kids, areNew, err := a.enterChildren(s, children)
	if err != nil {
		return nil, err
	}
	if !areNew {
		return a.awaitAll(ctx, kids)
	}
	defer a.tasks.Done()
	defer a.golden.hurry()()
	ctx, cancel := outlive(ctx, changeLimit)
	defer cancel()
	for _, kid := range kids {
		defer kid.release()
		defer context.AfterFunc(kid.ctx, cancel)()
	}
	if err := a.fork(ctx, s, kids); err != nil {
		return nil, a.unfork(ctx, s, kids, err)
	}
	return views(kids), nil
}

func checkChildren(children []Child) error {
	if len(children) < 1 || len(children) > models.MaxForks {
		return models.Errorf(models.Invalid, "a fork makes between 1 and %d children, not %d", models.MaxForks, len(children))
	}
	seen := map[id.Sandbox]bool{}
	for _, c := range children {
		if _, err := id.ParseSandbox(string(c.ID)); err != nil {
			return models.Errorf(models.Invalid, "%v", err)
		}
		if seen[c.ID] {
			return models.Errorf(models.Invalid, "two children of a fork have the id %s", c.ID)
		}
		seen[c.ID] = true
		if err := models.CheckNetwork(c.Network, anything); err != nil {
			return err
		}
	}
	return nil
}

// enterChildren lists new sandboxes with their turns taken, and counts a task, or returns those that exist.
func (a *Agent) enterChildren(s *sandbox, children []Child) (kids []*sandbox, areNew bool, err error) {
	parent := s.update(func(*record) {})
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, false, models.Errorf(models.Unavailable, "the host agent is stopping")
	}
	for _, c := range children {
		if known := a.sandboxes[c.ID]; known != nil {
			kids = append(kids, known)
		} else if a.inUse(c.ID) {
			return nil, false, models.Errorf(models.Conflict, "a VM of the host has the name %s", c.ID).WithHint("try again")
		}
	}
	switch len(kids) {
	case len(children):
		return kids, false, nil
	case 0:
	default:
		return nil, false, models.Errorf(models.Conflict, "sandbox %s exists, and others of the fork do not", kids[0].id)
	}
	for _, c := range children {
		kid := newSandbox(record{
			Sandbox: c.ID, State: Starting, Template: parent.Template, Digest: parent.Digest, Size: parent.Size,
			Slot: -1, Token: newToken(), CreatedAt: time.Now().UTC(), Network: &c.Network,
		})
		kid.turn <- struct{}{}
		a.sandboxes[c.ID] = kid
		kids = append(kids, kid)
	}
	a.tasks.Add(1)
	return kids, true, nil
}

func (a *Agent) awaitAll(ctx context.Context, kids []*sandbox) ([]Sandbox, error) {
	for _, kid := range kids {
		if _, err := a.await(ctx, kid); err != nil {
			return nil, err
		}
	}
	return views(kids), nil
}

func views(kids []*sandbox) []Sandbox {
	all := make([]Sandbox, len(kids))
	for i, kid := range kids {
		all[i] = kid.view()
	}
	return all
}

// fork is the story of a fork. What takes a while is done before the parent is frozen, or after it goes on.
func (a *Agent) fork(ctx context.Context, s *sandbox, kids []*sandbox) error {
	name := string(kids[0].id)
	if err := a.intend(name, intent{Sandbox: s.id, Children: idsOf(kids)}); err != nil {
		return err
	}
	births, err := a.conceive(ctx, kids)
	if err != nil {
		return err
	}
	staging, err := a.forks.Stage("fork-" + name)
	if err != nil {
		return err
	}
	manifest, err := a.capture(ctx, s, staging, "forked")
	if err == nil {
		err = a.bear(ctx, births, staging.Unstored(manifest))
	}
	if err = errors.Join(err, staging.Abort(), anyEnded(kids)); err != nil {
		return err
	}
	if err := a.intended(name); err != nil {
		return err
	}
	for _, b := range births {
		b.kid.update(func(r *record) { r.State, r.Steps = Running, b.clock.steps })
		a.publish(b.kid)
	}
	a.log.Info("sandbox forked", "sandbox_id", s.id, "children", idsOf(kids))
	return nil
}

// anyEnded fails if one of them is to be destroyed: what that cancels may not have noticed yet.
func anyEnded(kids []*sandbox) error {
	for _, kid := range kids {
		if err := kid.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// birth is a child that is being made.
type birth struct {
	kid   *sandbox
	link  network.Link
	clock stopwatch
}

// conceive gives every child its folder, its record and its network.
func (a *Agent) conceive(ctx context.Context, kids []*sandbox) ([]*birth, error) {
	births := make([]*birth, len(kids))
	for i, kid := range kids {
		births[i] = &birth{kid: kid, clock: stopwatch{last: time.Now()}}
	}
	return births, each(ctx, births, func(ctx context.Context, b *birth) (err error) {
		if err := a.prepare(ctx, b.kid, &b.clock); err != nil {
			return err
		}
		b.link, err = a.attach(ctx, b.kid)
		b.clock.lap("attach_network")
		return err
	})
}

// bear makes the VMs of the children, and their last records. Those do not count while the intent is there.
func (a *Agent) bear(ctx context.Context, births []*birth, from snapshot.Snapshot) error {
	return each(ctx, births, func(ctx context.Context, b *birth) error {
		b.clock.lap("freeze_parent")
		if err := a.revive(ctx, b.kid, from, b.link, nil, &b.clock); err != nil {
			return err
		}
		rec := b.kid.update(func(*record) {})
		rec.State, rec.Steps = Running, b.clock.steps
		err := rec.write(a.dir(b.kid.id))
		b.clock.lap("record")
		return err
	})
}

func each(ctx context.Context, births []*birth, do func(context.Context, *birth) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(restoredAtOnce)
	for _, b := range births {
		group.Go(func() error { return do(ctx, b) })
	}
	return group.Wait()
}

func idsOf(kids []*sandbox) []id.Sandbox {
	ids := make([]id.Sandbox, len(kids))
	for i, kid := range kids {
		ids[i] = kid.id
	}
	return ids
}

// unfork removes what was made of the children, and returns why the fork failed. The intent stays where something could not be removed: then the next agent does it.
func (a *Agent) unfork(ctx context.Context, s *sandbox, kids []*sandbox, cause error) error {
	told := a.explainFork(s, kids, cause)
	a.log.Warn("sandbox could not be forked", "sandbox_id", s.id, "error", cause)
	undo, done := undoContext(ctx)
	defer done()
	var left error
	for _, kid := range kids {
		left = errors.Join(left, a.dismantle(undo, kid))
	}
	if left == nil {
		left = a.intended(string(kids[0].id))
	}
	if left != nil {
		a.log.Error("children of a fork that failed not wholly removed; the next start of the agent tries again", "sandbox_id", s.id, "error", left)
	}
	return told
}

func (a *Agent) explainFork(s *sandbox, kids []*sandbox, cause error) error {
	if i := slices.IndexFunc(kids, func(kid *sandbox) bool { return kid.ctx.Err() != nil }); i >= 0 {
		return models.Errorf(models.Conflict, "sandbox %s was destroyed, or its host agent stopped, while it was being made by a fork", kids[i].id).WithCause(cause)
	}
	return a.explainChange(s, cause, "forked", "there are no children of it, and it is as it was")
}
