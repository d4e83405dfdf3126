// Package archive keeps snapshots in an object store, by the format of docs/design/snapshot-format.md: what changed since the template or the parent, in
// chunks that all snapshots of all hosts share.
//
// Upload puts the manifest last, so that a snapshot which is found is whole; Fetch makes a folder that appears whole or not at all. A key
// names one snapshot for ever: that of the same sandbox, frozen again, has another.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/chunk"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/diskcache"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// workers is how many chunks are on their way at the same time, each with its own buffer: they wait for the store more than for a processor.
const workers = 16

// Archive is an object store full of snapshots. It may be used by any number at the same time, on any number of hosts.
type Archive struct {
	pool *chunk.Pool

	summing singleflight.Group
	mu      sync.Mutex
	sums    map[string]templateSums // by path, of the disks of templates; guarded by mu
}

// Origin says what a snapshot has in common with what is on this host already. Either may be missing: then more is read, sent and fetched.
type Origin struct {
	Template string             // path of the disk of the snapshot's template
	Parent   *snapshot.Snapshot // in the archive under Key, and in place here unless its Dir is empty
}

// usable leaves out a parent whose memory has not come yet: what is not there has nothing in common with anything.
func (o Origin) usable() Origin {
	if o.Parent != nil && o.Parent.NeedMemory() != nil {
		o.Parent = nil
	}
	return o
}

// New returns the archive in an object store. cache may be nil.
func New(objects object.Store, cache *diskcache.Cache) *Archive {
	return &Archive{
		pool: chunk.New(chunk.Options{Objects: objects, Size: snapshot.ChunkSize, Names: namesIn, Cache: cache}),
		sums: map[string]templateSums{},
	}
}

// Key is the name that a snapshot has in every archive: its id and the instant it was frozen.
func Key(m snapshot.Manifest) string {
	return m.ID + "." + strconv.FormatInt(m.CreatedAt.UnixNano(), 16)
}

// Check returns when the object store answers, and was not found to be set up wrongly.
func (a *Archive) Check(ctx context.Context) error { return a.pool.Check(ctx) }

// Manifest returns what is known of a stored snapshot. Errors: NotFound, Precondition where it is damaged or of a format that is not known.
func (a *Archive) Manifest(ctx context.Context, key string) (snapshot.Manifest, error) {
	m, err := a.manifest(ctx, key)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	m.Manifest.Files = map[string]snapshot.File{}
	for name, f := range m.Files {
		m.Manifest.Files[name] = f.File
	}
	return m.Manifest, nil
}

// Keys returns the keys of all snapshots, in order; the last pair may be an error.
func (a *Archive) Keys(ctx context.Context) iter.Seq2[string, error] { return a.pool.Roots(ctx) }

// Delete removes a snapshot, and succeeds if there is none. Others that share chunks with it keep them.
func (a *Archive) Delete(ctx context.Context, key string) error { return a.pool.Remove(ctx, key) }

// Collect deletes the chunks that no snapshot needs. It may run at any time, on several hosts at once.
func (a *Archive) Collect(ctx context.Context) (chunk.Collected, error) { return a.pool.Collect(ctx) }

// Verify reads every chunk of a snapshot from the store, past the cache, and fails with Precondition where one is missing or damaged, or where the list
// is not that of the files' digests. Without a template's disk those chunks that are the template's are not looked at, and neither is the digest of that file.
func (a *Archive) Verify(ctx context.Context, key, template string) error {
	m, err := a.manifest(ctx, key)
	if err != nil {
		return err
	}
	if err := a.checkDigests(ctx, m, template); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for name := range m.names() {
		group.Go(func() error {
			_, err := a.pool.Stored(ctx, name)
			return err
		})
	}
	return group.Wait()
}

// Scrub is Verify for when nobody waits for it: chunk by chunk, with a call of wait before each, whose error ends it.
func (a *Archive) Scrub(ctx context.Context, key, template string, wait func() error) error {
	m, err := a.manifest(ctx, key)
	if err == nil {
		err = a.checkDigests(ctx, m, template)
	}
	if err != nil {
		return err
	}
	for name := range m.names() {
		if err := wait(); err != nil {
			return err
		}
		if _, err := a.pool.Stored(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// templateSums are the sums of a file's chunks, as long as the file is the same.
type templateSums struct {
	info os.FileInfo
	sums []chunk.Sum
}

// templateChunks returns the sums of the chunks of a template's disk, which is read once and never changes.
func (a *Archive) templateChunks(ctx context.Context, path string) ([]chunk.Sum, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	known := a.sums[path]
	a.mu.Unlock()
	if known.info != nil && os.SameFile(known.info, info) && known.info.ModTime().Equal(info.ModTime()) {
		return known.sums, nil
	}
	sums, err, _ := a.summing.Do(path, func() (any, error) {
		sums, _, err := snapshot.Sums(ctx, path)
		return sums, err
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sums[path] = templateSums{info, sums.([]chunk.Sum)}
	return sums.([]chunk.Sum), nil
}

// onDisk gives what the host's disk answers a code.
func onDisk(err error) error {
	var known *models.Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return models.Errorf(models.Exhausted, "the host's disk is full").
			WithHint("destroy sandboxes that are not needed, or give the host more disk").WithCause(err)
	case errors.Is(err, fs.ErrNotExist):
		return models.Errorf(models.Precondition, "a file of the snapshot is missing on this host").WithCause(err)
	}
	return err
}

func damaged(key, file string, cause error) error {
	return models.Errorf(models.Precondition, "the stored snapshot %s is damaged: %s", key, file).WithCause(cause)
}

func wrap(what, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s snapshot %s: %w", what, key, onDisk(err))
}
