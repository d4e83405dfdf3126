package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// laterFile is there while a snapshot's memory is not.
const laterFile = "later.json"

// later says where memory is to come from.
type later struct {
	Key string `json:"key"` // of the stored snapshot
}

// MemoryLater makes the memory a file of its size with nothing in it, which is to come from the stored snapshot key while a VM runs.
func (g *Staging) MemoryLater(key string) error { return g.write(laterFile, later{key}) }

// Later returns the key of the stored snapshot that the memory is to come from; "" where it is there.
func (s Snapshot) Later() (string, error) {
	var l later
	err := durable.ReadJSON(filepath.Join(s.Dir, laterFile), &l)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err == nil && l.Key == "":
		err = errors.New("it names no stored snapshot")
	}
	if err != nil {
		return "", damaged(s.ID, laterFile, err)
	}
	return l.Key, nil
}

// EmptyMemory takes out of the memory what has come of it: it is to come once more, and of the same snapshot.
func (s Snapshot) EmptyMemory() error {
	path := filepath.Join(s.Dir, MemoryFile)
	return errors.Join(os.Truncate(path, 0), os.Truncate(path, s.Files[MemoryFile].Size))
}

// NeedMemory fails with Precondition where the memory is not there.
func (s Snapshot) NeedMemory() error {
	key, err := s.Later()
	if err == nil && key != "" {
		err = models.Errorf(models.Precondition, "the memory of snapshot %s has not come from the object store yet", s.ID)
	}
	return err
}

// MemoryCame makes memory last that has come, and from now on the snapshot is like any other. It reads all of it once more: on its way it
// was checked by another process.
func (s Snapshot) MemoryCame(ctx context.Context) error {
	known, sealed, err := s.Integrity()
	if err == nil && !sealed {
		err = damaged(s.ID, integrityFile, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	path := filepath.Join(s.Dir, MemoryFile)
	digest, err := Digest(ctx, path)
	if err == nil && digest != known.Files[MemoryFile] {
		err = damaged(s.ID, MemoryFile, fmt.Errorf("its digest is %q, not %q", digest, known.Files[MemoryFile]))
	}
	disk := realDisk{}
	for _, step := range []func() error{
		func() error { return disk.syncFile(path) },
		func() error { return durable.RemoveAll(filepath.Join(s.Dir, laterFile)) },
	} {
		if err == nil {
			err = step()
		}
	}
	return err
}
