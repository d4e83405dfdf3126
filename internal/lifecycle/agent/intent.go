package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// intent is what a fork, or the making of a snapshot, is about. It lies in Dir/intents from before anything is done until all of it lasts. While it is there
// the VM of its sandbox may stand still, and none of its children counts, whatever their records say: an agent that finds it lets the
// one go on and removes the others. So the removal of this one file is what makes all children sandboxes at once.
type intent struct {
	Sandbox  id.Sandbox   `json:"sandbox"`
	Children []id.Sandbox `json:"children,omitempty"`
}

func (a *Agent) intentPath(name string) string {
	return filepath.Join(a.cfg.Dir, "intents", name+".json")
}

// intend records an intent, under a name that no other has.
func (a *Agent) intend(name string, i intent) error {
	return durable.WriteJSON(a.intentPath(name), i, 0o600)
}

// intended removes an intent, if it was recorded: it is done, or undone.
func (a *Agent) intended(name string) error {
	path := a.intentPath(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// recallIntents returns what earlier agents did not come to an end with, by name.
func (a *Agent) recallIntents() (map[string]intent, error) {
	dir := filepath.Dir(a.intentPath(""))
	if err := errors.Join(os.MkdirAll(dir, 0o700), durable.Sweep(dir)); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]intent{}
	for _, e := range entries {
		var i intent
		name := strings.TrimSuffix(e.Name(), ".json")
		if err := durable.ReadJSON(a.intentPath(name), &i); err != nil {
			return nil, err
		}
		all[name] = i
	}
	return all, nil
}

// disown has the children of all intents removed like what was left half made.
func (a *Agent) disown(all map[string]intent) {
	for _, i := range all {
		for _, child := range i.Children {
			if s, err := a.find(child); err == nil {
				s.update(func(r *record) { r.State = Stopping })
			}
		}
	}
}

// settleIntents lets the sandboxes of intents go on, whose children are gone.
func (a *Agent) settleIntents(ctx context.Context, all map[string]intent) error {
	for name, i := range all {
		a.log.Warn("undone a fork or a snapshot that an earlier agent began", "sandbox_id", i.Sandbox, "children", i.Children)
		if s, err := a.find(i.Sandbox); err == nil && s.view().State == Running {
			if err := a.unfreeze(ctx, s); err != nil {
				return err
			}
			a.tasks.Go(func() { a.setClock(s) })
		}
		if err := a.intended(name); err != nil {
			return err
		}
	}
	return nil
}

// unfreeze lets the VM of a running sandbox go on. One that does not has failed, or sleeps again.
func (a *Agent) unfreeze(ctx context.Context, s *sandbox) error {
	machine, _ := s.machine()
	err := machine.Resume(ctx)
	if err == nil {
		return nil
	}
	return errors.Join(err, a.ended(ctx, s, machine, "it was frozen for a snapshot, and does not go on: "+whyEnded(machine)))
}
