// Package journal keeps what a sandbox was refused on the network, for its user to read.
//
// Equal refusals (protocol, destination, rule) are one entry with a count, so that a guest that floods makes no more of
// them than one that asks once. The number of entries is bounded; of too many, the one seen last the longest ago is
// forgotten, and counted as forgotten. It survives the agent: Save writes it into the sandbox's folder.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// MaxEntries is how many different refusals are kept.
const MaxEntries = 256

// maxFile is more than any journal that Save wrote: names have at most 1,012 characters with their escapes.
const maxFile = MaxEntries * 4096

// Journal is what one sandbox was refused. Its methods may be called at the same time.
type Journal struct {
	saving sync.Mutex // held while the file is written

	mu        sync.Mutex // guards what follows
	entries   map[key]*models.NetworkRefusal
	forgotten int64
	dirty     bool // there is something that Save has not written
}

// key tells refusals apart.
type key struct {
	protocol, name, rule string
	to                   netip.AddrPort
}

// saved is the file's form.
type saved struct {
	Items     []models.NetworkRefusal `json:"items"`
	Forgotten int64                   `json:"forgotten"`
}

// New returns an empty journal.
func New() *Journal { return &Journal{entries: map[key]*models.NetworkRefusal{}} }

// Load returns the journal that was saved at path, an empty one when there is none. One that cannot be read is an error and
// an empty journal: it is of less worth than the sandbox.
func Load(path string) (*Journal, error) {
	j := New()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	var s saved
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return j, fmt.Errorf("read the journal %s: %w", path, err)
	}
	j.forgotten = s.Forgotten
	for _, r := range s.Items {
		j.entries[keyOf(r)] = &r
	}
	return j, nil
}

// Add notes that something was refused r.Count times, the last time at r.Last.
func (j *Journal) Add(r models.NetworkRefusal) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dirty = true
	if known := j.entries[keyOf(r)]; known != nil {
		known.Count += r.Count
		known.Last = later(known.Last, r.Last)
		known.Why = r.Why
		return
	}
	if len(j.entries) >= MaxEntries {
		j.forgetOldest()
	}
	r.First = r.Last
	j.entries[keyOf(r)] = &r
}

// forgetOldest makes room; the caller holds the lock.
func (j *Journal) forgetOldest() {
	var oldest key
	var at time.Time
	for k, r := range j.entries {
		if at.IsZero() || r.Last.Before(at) {
			oldest, at = k, r.Last
		}
	}
	j.forgotten += j.entries[oldest].Count
	delete(j.entries, oldest)
}

// Refusals returns what is kept, the latest first.
func (j *Journal) Refusals() models.NetworkRefusals {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.copy()
}

// copy returns what is kept; the caller holds the lock.
func (j *Journal) copy() models.NetworkRefusals {
	all := models.NetworkRefusals{Items: make([]models.NetworkRefusal, 0, len(j.entries)), Forgotten: j.forgotten}
	for _, r := range j.entries {
		all.Items = append(all.Items, *r)
	}
	slices.SortFunc(all.Items, func(a, b models.NetworkRefusal) int { return b.Last.Compare(a.Last) })
	return all
}

// Save writes the journal to path unless the file is up to date: whole, or not at all. It is not synced: what a power
// failure takes of it is no loss.
func (j *Journal) Save(path string) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	j.mu.Lock()
	all, dirty := j.copy(), j.dirty
	j.dirty = false
	j.mu.Unlock()
	if !dirty {
		return nil
	}
	text, err := json.Marshal(saved(all))
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		j.mu.Lock()
		j.dirty = true
		j.mu.Unlock()
		return fmt.Errorf("save the journal %s: %w", path, err)
	}
	return nil
}

func keyOf(r models.NetworkRefusal) key { return key{r.Protocol, r.Name, r.Rule, r.To} }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
