package hostsetup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// recordPath does not depend on the options: Undo must find it without them.
const recordPath = "/etc/wrenn/host-setup.json"

// record is what was changed, in order.
type record struct {
	MadeFolder bool    `json:"made_folder"` // that of the record itself
	Entries    []entry `json:"entries"`
}

// entry is one change that was begun.
type entry struct {
	Item   string `json:"item"`
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Before state  `json:"before"` // at the first set-up
	After  state  `json:"after"`  // as the kernel showed it once the change was made
	Done   bool   `json:"done"`   // false: set-up was killed in between, or is under way
}

func (e entry) change() change { return change{kind: e.Kind, target: e.Target, want: e.Before} }

// readRecord returns an empty record where there is none.
func readRecord(m *machine) (*record, error) {
	r := &record{}
	err := durable.ReadJSON(m.path(recordPath), r)
	if errors.Is(err, fs.ErrNotExist) {
		return &record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of the set-up: %w", err)
	}
	for _, e := range r.Entries {
		if kinds[e.Kind] == nil {
			return nil, models.Errorf(models.Precondition, "%s has an entry of kind %q, which this version does not know", recordPath, e.Kind).
				WithHint("use the version that prepared this host")
		}
	}
	return r, nil
}

func (r *record) write(m *machine) error {
	if err := durable.WriteJSON(m.path(recordPath), r, 0o600); err != nil {
		return fmt.Errorf("keep the record of the set-up: %w", err)
	}
	return nil
}

// remove removes the record, and its folder if set-up made it and nobody else uses it.
func (r *record) remove(m *machine) error {
	if err := durable.RemoveAll(m.path(recordPath)); err != nil {
		return err
	}
	if !r.MadeFolder {
		return nil
	}
	err := os.Remove(m.path(filepath.Dir(recordPath)))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// has reports whether an item was applied.
func (r *record) has(item string) bool {
	for _, e := range r.Entries {
		if e.Item == item {
			return true
		}
	}
	return false
}

// begin returns the entry of a change, a new one unless an earlier set-up has made one: what that found is what was
// there before.
func (r *record) begin(item string, c change) *entry {
	for i := range r.Entries {
		if e := &r.Entries[i]; e.Kind == c.kind && e.Target == c.target {
			e.Done = false
			return e
		}
	}
	r.Entries = append(r.Entries, entry{Item: item, Kind: c.kind, Target: c.target, Before: c.now})
	return &r.Entries[len(r.Entries)-1]
}

// lockRecord makes the record's folder and keeps a second set-up away; flock(2) ends with its holder.
func lockRecord(m *machine) (made bool, unlock func() error, err error) {
	dir := m.path(filepath.Dir(recordPath))
	err = os.Mkdir(dir, 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return false, nil, fmt.Errorf("make the folder of the record: %w", err)
	}
	made = err == nil
	f, err := os.Open(dir)
	if err != nil {
		return made, nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		conflict := models.Errorf(models.Conflict, "another set-up of this host is under way").WithHint("wait for it").WithCause(err)
		return made, nil, errors.Join(conflict, f.Close())
	}
	return made, f.Close, nil
}
