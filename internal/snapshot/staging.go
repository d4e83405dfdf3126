package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Staging is a snapshot that is being made. Nobody finds it before Commit.
type Staging struct {
	store *Store
	id    string
	dir   string
}

// Stage begins a snapshot. It ends with Commit or Abort.
func (s *Store) Stage(id string) (*Staging, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	dir, err := durable.Temp(filepath.Join(s.dir, id))
	if err != nil {
		return nil, fmt.Errorf("begin snapshot %s: %w", id, err)
	}
	return &Staging{s, id, dir}, nil
}

// ID is the name that the snapshot will have.
func (g *Staging) ID() string { return g.id }

// Files are the two that a driver makes.
func (g *Staging) Files() vm.Files { return filesIn(g.dir) }

// Rootfs is where the clone of the disk is made.
func (g *Staging) Rootfs() string { return filepath.Join(g.dir, RootfsFile) }

// Unstored is the snapshot before it is in place, for VMs that are made from it and need no other: it is not synced, and ends with Abort.
func (g *Staging) Unstored(m Manifest) Snapshot {
	m.ID = g.id
	return Snapshot{Manifest: m, Dir: g.dir}
}

// Seal computes the checksums before Commit, for a snapshot that others will be made from. want are the digests that files must
// have, where they are known; with another one it fails.
func (g *Staging) Seal(ctx context.Context, want map[string]string) error {
	sums, err := digests(g.dir, func(path string) (string, error) { return Digest(ctx, path) })
	if err != nil {
		return fmt.Errorf("seal snapshot %s: %w", g.id, err)
	}
	for name, digest := range want {
		if sums[name] != digest {
			return damaged(g.id, name, fmt.Errorf("its digest is %q, not %q", sums[name], digest))
		}
	}
	return g.Sealed(sums)
}

// Sealed is Seal where the digests are known, since whoever wrote the files checked each chunk.
func (g *Staging) Sealed(digests map[string]string) error {
	now := time.Now().UTC()
	return g.write(integrityFile, Integrity{Files: digests, SealedAt: now, VerifiedAt: now})
}

// Commit makes the snapshot last and puts it in its place, from which it removes one that is there. After an error
// the one that was there is in place, or, where only the removal failed, the new one. In any case the staging is over.
func (g *Staging) Commit(m Manifest) error {
	if err := errors.Join(g.commit(m), g.Abort()); err != nil {
		return fmt.Errorf("store snapshot %s: %w", g.id, err)
	}
	return nil
}

// Abort removes what was made. After Commit it does nothing.
func (g *Staging) Abort() error { return g.store.disk.removeAll(g.dir) }

func (g *Staging) commit(m Manifest) error {
	m.Format, m.ID, m.Files = Format, g.id, map[string]File{}
	for _, name := range files {
		file, err := describe(filepath.Join(g.dir, name))
		if err != nil {
			return err
		}
		m.Files[name] = file
	}
	if err := g.write(manifestFile, m); err != nil {
		return err
	}
	if err := g.sync(); err != nil {
		return err
	}
	return g.place()
}

func (g *Staging) write(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return g.store.disk.writeFile(filepath.Join(g.dir, name), append(text, '\n'))
}

// sync syncs every file, all at once as each waits for the disk, and then their folder.
func (g *Staging) sync() error {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, e := range entries {
		group.Go(func() error { return g.store.disk.syncFile(filepath.Join(g.dir, e.Name())) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return g.store.disk.syncDir(g.dir)
}

// place leaves under the staging's name what has to go, if anything. Where the swap cannot be made to last it is taken back: what it would
// replace must not go then.
func (g *Staging) place() error {
	place, disk := filepath.Join(g.store.dir, g.id), g.store.disk
	put, back := disk.rename, func() error { return disk.rename(place, g.dir) }
	if _, err := os.Lstat(place); err == nil {
		put, back = disk.exchange, func() error { return disk.exchange(place, g.dir) }
	}
	if err := put(g.dir, place); err != nil {
		return err
	}
	if err := disk.syncDir(g.store.dir); err != nil {
		return errors.Join(err, back())
	}
	return nil
}
