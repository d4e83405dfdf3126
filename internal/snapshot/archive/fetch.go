package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/chunk"
	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// Fetch makes a snapshot's folder in a store of this host, with its integrity known, and returns it. What the origin has is cloned from it, the rest is fetched, and
// each chunk is checked before it is used. After an error nothing is left of it, and a snapshot of the same name that was in place is there still.
func (a *Archive) Fetch(ctx context.Context, key string, into *snapshot.Store, from Origin) (snapshot.Snapshot, error) {
	return a.fetch(ctx, key, into, from, false)
}

// FetchLater is Fetch of all but the memory, which is to come from Memory while a VM runs: the snapshot is one with Later.
func (a *Archive) FetchLater(ctx context.Context, key string, into *snapshot.Store, from Origin) (snapshot.Snapshot, error) {
	return a.fetch(ctx, key, into, from, true)
}

func (a *Archive) fetch(ctx context.Context, key string, into *snapshot.Store, from Origin, later bool) (snapshot.Snapshot, error) {
	m, err := a.manifest(ctx, key)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	staging, err := into.Stage(m.ID)
	if err != nil {
		return snapshot.Snapshot{}, wrap("fetch", key, err)
	}
	err = a.fetchFiles(ctx, m, staging, from.usable(), later)
	if err == nil && later {
		err = staging.MemoryLater(key)
	}
	if err == nil && len(m.WorkingSet) > 0 {
		err = pager.WriteWorkingSet(staging.WorkingSet(), m.WorkingSet)
	}
	if err == nil {
		err = staging.Commit(m.Manifest)
	}
	if err != nil {
		return snapshot.Snapshot{}, wrap("fetch", key, errors.Join(err, staging.Abort()))
	}
	return into.Snapshot(m.ID)
}

func (a *Archive) fetchFiles(ctx context.Context, m manifest, staging *snapshot.Staging, from Origin, later bool) error {
	parent := a.parentOf(ctx, from)
	digests := map[string]string{}
	for _, name := range fileNames {
		f := m.Files[name]
		sums, err := a.fileSums(ctx, Key(m.Manifest), name, f, from.Template)
		if err != nil {
			return err
		}
		path := filepath.Join(filepath.Dir(staging.Rootfs()), name)
		w := &fileFetch{archive: a, path: path, template: from.Template, want: f, sums: sums}
		if later && name == snapshot.MemoryFile {
			err = w.leave()
		} else {
			err = w.run(ctx, a.originOf(ctx, name, f, parent, from))
		}
		if err != nil {
			return err
		}
		digests[name] = f.Digest
	}
	if err := checkState(staging.Files().State, m.Files[snapshot.VMStateFile].SHA256); err != nil {
		return damaged(Key(m.Manifest), snapshot.VMStateFile, err)
	}
	return staging.Sealed(digests)
}

// checkState holds the second checksum of vmstate, which every opening looks at.
func checkState(path, want string) error {
	text, err := os.ReadFile(path)
	sum := sha256.Sum256(text)
	if err == nil && hex.EncodeToString(sum[:]) != want {
		err = errors.New("it has another checksum")
	}
	return err
}

// parentOf returns the stored manifest of the parent on this host, or an empty one.
func (a *Archive) parentOf(ctx context.Context, from Origin) manifest {
	if from.Parent == nil || from.Parent.Dir == "" {
		return manifest{}
	}
	m, err := a.manifest(ctx, Key(from.Parent.Manifest))
	if err != nil {
		return manifest{} // more is fetched
	}
	return m
}

// origin is a file on this host that has chunks in common with one that is fetched.
type origin struct {
	path string
	sums []chunk.Sum
}

func (a *Archive) originOf(ctx context.Context, name string, f file, parent manifest, from Origin) origin {
	if known, ok := parent.Files[name]; ok {
		if sums, err := a.fileSums(ctx, Key(parent.Manifest), name, known, from.Template); err == nil {
			return origin{filepath.Join(from.Parent.Dir, name), sums}
		}
	}
	if f.Base != nil {
		if sums, err := a.templateChunks(ctx, from.Template); err == nil {
			return origin{from.Template, sums}
		}
	}
	return origin{}
}

// fileFetch makes one file.
type fileFetch struct {
	archive        *Archive
	path, template string
	want           file
	sums           []chunk.Sum
}

// leave makes the file with nothing in it.
func (w *fileFetch) leave() error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(w.want.Size), f.Close())
}

func (w *fileFetch) run(ctx context.Context, from origin) error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(w.fill(ctx, f, from), f.Close())
}

func (w *fileFetch) fill(ctx context.Context, f *os.File, from origin) error {
	if from.path != "" {
		if err := cloneInto(ctx, from.path, f); err != nil {
			return err
		}
	}
	if err := f.Truncate(w.want.Size); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i, sum := range w.sums {
		if had := sumAt(from.sums, i); had == sum {
			continue
		}
		group.Go(func() error { return w.chunk(ctx, f, i) })
	}
	return group.Wait()
}

func cloneInto(ctx context.Context, path string, to *os.File) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = clone.Into(ctx, from, to)
	return err
}

// sumAt is what is at a place of the origin; behind its end there are zeros.
func sumAt(sums []chunk.Sum, i int) chunk.Sum {
	if i < len(sums) {
		return sums[i]
	}
	return snapshot.ZeroSum
}

// chunk writes what is at place i and differs from the origin.
func (w *fileFetch) chunk(ctx context.Context, f *os.File, i int) error {
	offset := int64(i) * snapshot.ChunkSize
	length := min(snapshot.ChunkSize, w.want.Size-offset)
	if w.want.Chunks[i] == zeros {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	}
	plain, err := w.content(ctx, i)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(plain[:length], offset)
	return err
}

// content is that of the store or, where the parent changed what is the template's here, the template's.
func (w *fileFetch) content(ctx context.Context, i int) ([]byte, error) {
	if w.want.Chunks[i] != ofBase {
		return w.archive.pool.Chunk(ctx, chunk.Name(w.want.Chunks[i]))
	}
	f, err := os.Open(w.template)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain := make([]byte, snapshot.ChunkSize)
	return plain, snapshot.ReadChunk(f, int64(i), plain)
}
