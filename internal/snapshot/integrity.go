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
	return s.verify(func(path string, _ bool) (string, error) { return Digest(ctx, path) })
}

// Scrub is Verify for when nobody waits for it: on one processor, and with a call of wait before each chunk that it reads, whose error ends it. What was
// sealed it reads from the disk, as far as nobody has it mapped, and leaves nothing of it in the page cache.
func (s Snapshot) Scrub(wait func() error) (Integrity, error) {
	return s.verify(func(path string, sealed bool) (string, error) { return slowDigest(path, sealed, wait) })
}

func (s Snapshot) verify(digest func(path string, sealed bool) (string, error)) (Integrity, error) {
	known, sealed, err := s.Integrity()
	if err == nil {
		err = s.NeedMemory()
	}
	if err != nil {
		return Integrity{}, err
	}
	sums, err := digests(s.Dir, func(path string) (string, error) { return digest(path, sealed) })
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

func digests(dir string, digest func(path string) (string, error)) (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range files {
		sum, err := digest(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		sums[name] = sum
	}
	return sums, nil
}
