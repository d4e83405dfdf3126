package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// Integrity is what is known of a snapshot's files: their digests, and when they were last right.
type Integrity struct {
	Files      map[string]string `json:"files"`
	SealedAt   time.Time         `json:"sealed_at"`
	VerifiedAt time.Time         `json:"verified_at"`
}

// Integrity returns what is known; false where the snapshot was not sealed yet.
func (s Snapshot) Integrity() (Integrity, bool, error) {
	var i Integrity
	err := durable.ReadJSON(filepath.Join(s.Dir, integrityFile), &i)
	if errors.Is(err, fs.ErrNotExist) {
		return Integrity{}, false, nil
	}
	if err != nil {
		return Integrity{}, false, damaged(s.ID, integrityFile, err)
	}
	return i, true, nil
}

// Verify reads the whole snapshot. One that was not sealed is sealed; the files of one that was must have the same digests as
// then, or the error is Precondition and names the first that has not. It returns what is known afterwards.
func (s Snapshot) Verify(ctx context.Context) (Integrity, error) {
	known, sealed, err := s.Integrity()
	if err == nil {
		err = s.NeedMemory()
	}
	if err != nil {
		return Integrity{}, err
	}
	sums, err := digests(ctx, s.Dir)
	if err != nil {
		return Integrity{}, fmt.Errorf("verify snapshot %s: %w", s.ID, err)
	}
	now := time.Now().UTC()
	if !sealed {
		known = Integrity{Files: sums, SealedAt: now}
	}
	for _, name := range files {
		if sums[name] != known.Files[name] {
			return Integrity{}, damaged(s.ID, name, fmt.Errorf("its digest is %q, not %q", sums[name], known.Files[name]))
		}
	}
	known.VerifiedAt = now
	if err := durable.WriteJSON(filepath.Join(s.Dir, integrityFile), known, 0o600); err != nil {
		return Integrity{}, fmt.Errorf("verify snapshot %s: %w", s.ID, err)
	}
	return known, nil
}

// files are those that have a digest.
var files = []string{VMStateFile, MemoryFile, RootfsFile}

func digests(ctx context.Context, dir string) (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range files {
		digest, err := Digest(ctx, filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		sums[name] = digest
	}
	return sums, nil
}
