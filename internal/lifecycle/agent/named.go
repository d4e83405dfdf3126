package agent

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// named keeps the snapshots that users have asked for. They lie beside the sandboxes, of which they are independent.
type named struct {
	store *snapshot.Store

	mu     sync.Mutex // guards what follows
	busy   map[id.Snapshot]chan struct{}
	broken map[id.Snapshot]error // what was read and found damaged
}

func openNamed(dir string) (*named, error) {
	store, err := snapshot.Open(filepath.Join(dir, "snapshots"))
	return &named{store: store, busy: map[id.Snapshot]chan struct{}{}, broken: map[id.Snapshot]error{}}, err
}

// turn waits for whoever makes or removes the snapshot; done ends the caller's own turn.
func (n *named) turn(ctx context.Context, name id.Snapshot) (done func(), err error) {
	for {
		n.mu.Lock()
		before := n.busy[name]
		if before == nil {
			mine := make(chan struct{})
			n.busy[name] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				defer n.mu.Unlock()
				delete(n.busy, name)
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, models.AsError(ctx.Err())
		}
	}
}

// Kept is a snapshot that was asked for.
type Kept struct {
	ID        id.Snapshot
	Damage    error // why it cannot be used; then the rest is not known
	Sandbox   id.Sandbox
	CreatedAt time.Time
	Bytes     int64 // that it takes of the disk
}

// Snapshots returns those that were asked for.
func (a *Agent) Snapshots() ([]Kept, error) {
	all, err := a.named.store.List()
	if err != nil {
		return nil, err
	}
	kept := make([]Kept, len(all))
	for i, entry := range all {
		kept[i] = Kept{ID: id.Snapshot(entry.ID), Damage: cmp.Or(entry.Err, a.named.damage(id.Snapshot(entry.ID)))}
		if kept[i].Damage == nil {
			kept[i] = a.kept(entry.Snapshot)
		}
	}
	return kept, nil
}

// damage is what the scrubber has found of a snapshot.
func (n *named) damage(name id.Snapshot) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broken[name]
}

func (n *named) condemn(name id.Snapshot, why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken[name] = why
}

func (a *Agent) kept(s snapshot.Snapshot) Kept {
	return Kept{ID: id.Snapshot(s.ID), Sandbox: id.Sandbox(s.Sandbox), CreatedAt: s.CreatedAt, Bytes: a.bytesOf(s)}
}

// Keep makes a snapshot of a running or paused sandbox under a name of its own, and returns once it is on the disk, whole and with its checksums. The sandbox stands
// still for an instant, or sleeps on. After an error there is no such snapshot. A caller that goes away does not end it, a destroy of the sandbox at
// its beginning does. One that exists of that sandbox is returned: a repeated request is answered like the first.
func (a *Agent) Keep(ctx context.Context, sb id.Sandbox, name id.Snapshot) (Kept, error) {
	if _, err := id.ParseSnapshot(string(name)); err != nil {
		return Kept{}, models.Errorf(models.Invalid, "%v", err)
	}
	if err := a.begin(); err != nil {
		return Kept{}, err
	}
	defer a.tasks.Done()
	defer a.golden.hurry()()
	ctx, cancel := outlive(ctx, changeLimit)
	defer cancel()
	done, err := a.named.turn(ctx, name)
	if err != nil {
		return Kept{}, err
	}
	defer done()
	if known, err := a.named.store.Snapshot(string(name)); err == nil && known.Sandbox == string(sb) {
		return a.kept(known), nil
	} else if models.CodeOf(err) != models.NotFound || err == nil {
		return Kept{}, models.Errorf(models.Conflict, "there is another snapshot %s on this host", name).WithCause(err)
	}
	s, err := a.find(sb)
	if err != nil {
		return Kept{}, err
	}
	if err := a.keep(ctx, s, name); err != nil {
		a.log.Warn("snapshot could not be made", "sandbox_id", sb, "snapshot", name, "error", err)
		return Kept{}, a.explainChange(s, err, "kept in a snapshot", "there is no snapshot, and it is as it was")
	}
	made, err := a.named.store.Snapshot(string(name))
	return a.kept(made), err
}

func (a *Agent) keep(ctx context.Context, s *sandbox, name id.Snapshot) error {
	if err := a.intend(string(name), intent{Sandbox: s.id}); err != nil {
		return err
	}
	staging, err := a.named.store.Stage(string(name))
	if err != nil {
		return errors.Join(err, a.intended(string(name)))
	}
	manifest, err := a.capture(ctx, s, staging, "kept in a snapshot")
	manifest.Kind = snapshot.Named
	err = errors.Join(err, a.intended(string(name))) // the sandbox goes on
	if err == nil {
		err = staging.Seal(ctx, nil)
	}
	if err != nil {
		return errors.Join(err, staging.Abort())
	}
	if err := staging.Commit(manifest); err != nil {
		return err
	}
	a.log.Info("snapshot made", "sandbox_id", s.id, "snapshot", name)
	return nil
}

// Discard removes a snapshot that was asked for. Sandboxes that were made from it go on. It succeeds when there is none.
func (a *Agent) Discard(ctx context.Context, name id.Snapshot) error {
	if err := a.begin(); err != nil {
		return err
	}
	defer a.tasks.Done()
	done, err := a.named.turn(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	return a.named.store.Remove(string(name))
}

// bringBack makes the VM of a new sandbox from a snapshot that was asked for.
func (a *Agent) bringBack(ctx context.Context, s *sandbox, req Request, clock *stopwatch) (network.Link, error) {
	link, err := a.attach(ctx, s)
	if err != nil {
		return link, err
	}
	clock.lap("attach_network")
	from, err := a.named.store.Snapshot(string(req.Snapshot))
	if err == nil && from.Kind != snapshot.Named {
		err = models.Errorf(models.Precondition, "snapshot %s is of the kind %q: it was not made here on request", req.Snapshot, from.Kind)
	}
	if err == nil {
		err = a.revive(ctx, s, from, link, req.Env, clock)
	}
	if err != nil {
		if _, gone := a.named.store.Snapshot(string(req.Snapshot)); models.CodeOf(gone) == models.NotFound { // removed meanwhile, which is why
			err = gone
		}
	}
	return link, err
}
