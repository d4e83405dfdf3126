package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// Store is a folder of snapshots. One process at a time uses it. Its methods may be called at the same time, but not two that
// change the same snapshot.
type Store struct {
	dir  string
	disk disk
}

// Open makes dir where it is missing, and removes what an earlier process left half done in it.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the snapshots: %w", err)
	}
	if err := durable.Sweep(dir); err != nil {
		return nil, fmt.Errorf("open the snapshots: %w", err)
	}
	return &Store{dir: dir, disk: realDisk{}}, nil
}

// Snapshot opens one. Errors: NotFound, Precondition where it is damaged or of a format that is not known.
func (s *Store) Snapshot(id string) (Snapshot, error) {
	if err := checkID(id); err != nil {
		return Snapshot{}, err
	}
	return read(filepath.Join(s.dir, id), id)
}

// At opens a snapshot in a folder of them without opening the folder for changes. Its errors are those of Store.Snapshot.
func At(dir, id string) (Snapshot, error) { return (&Store{dir: dir}).Snapshot(id) }

// Entry is one snapshot of a list.
type Entry struct {
	ID       string
	Snapshot Snapshot
	Err      error // why it cannot be opened; then Snapshot is empty
}

// List returns all, sorted by id, also those that are damaged.
func (s *Store) List() ([]Entry, error) {
	folders, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list the snapshots: %w", err)
	}
	var all []Entry
	for _, f := range folders {
		if !f.IsDir() || checkID(f.Name()) != nil { // what is being made or removed begins with a dot
			continue
		}
		e := Entry{ID: f.Name()}
		e.Snapshot, e.Err = s.Snapshot(e.ID)
		all = append(all, e)
	}
	return all, nil
}

// Remove removes a snapshot, and succeeds when there is none. VMs that run from it go on.
func (s *Store) Remove(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	place := filepath.Join(s.dir, id)
	if _, err := os.Lstat(place); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	doomed, err := durable.Temp(place)
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	if err := s.disk.rename(place, doomed); err != nil { // over the empty folder
		return fmt.Errorf("remove snapshot %s: %w", id, errors.Join(err, os.Remove(doomed)))
	}
	if err := errors.Join(s.disk.syncDir(s.dir), s.disk.removeAll(doomed)); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}
