package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// snapshots opens the snapshots of a sandbox, which lie in its folder so that they end with it. There is the one that it sleeps in or was
// resumed from, which its VM may still need, and during a pause the next. What an interrupted pause left is removed. The caller holds the turn.
func (a *Agent) snapshots(s *sandbox) (*snapshot.Store, error) {
	return snapshot.Open(filepath.Join(a.dir(s.id), "snapshots"))
}

// removeSnapshotsBut removes all but one.
func (a *Agent) removeSnapshotsBut(s *sandbox, keep string) error {
	store, err := a.snapshots(s)
	if err != nil {
		return err
	}
	all, err := store.List()
	for _, entry := range all {
		if entry.ID != keep {
			err = errors.Join(err, store.Remove(entry.ID))
		}
	}
	return err
}

// fileSum returns the SHA-256 of a file, "" where it cannot be read.
func fileSum(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}
