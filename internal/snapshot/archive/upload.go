package archive

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/chunk"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// Uploaded is what an upload did.
type Uploaded struct {
	Key       string
	ReadBytes int64 // of the snapshot's files
	SentBytes int64 // of chunks, as they are stored
	Sent      int   // chunks
}

// attempts is how often an upload begins anew that took longer than collectors wait. Each goes on where the last one was.
const attempts = 3

// Upload stores a snapshot and returns when it will last: it was read back. What is stored already is not sent again, be it from another
// snapshot or from an upload that broke off, and what can be seen to be the origin's is not read either. After an error there is no such
// snapshot in the archive, or it is whole; the one on this host is as it was.
func (a *Archive) Upload(ctx context.Context, s snapshot.Snapshot, from Origin) (Uploaded, error) {
	key := Key(s.Manifest)
	if err := s.NeedMemory(); err != nil {
		return Uploaded{}, wrap("store", key, err)
	}
	from = from.usable()
	for range attempts {
		done, err := a.upload(ctx, key, s, from)
		if !errors.Is(err, chunk.ErrOverdue) {
			return done, wrap("store", key, err)
		}
	}
	return Uploaded{}, models.Errorf(models.Unavailable, "storing snapshot %s takes too long", key).WithCause(chunk.ErrOverdue)
}

func (a *Archive) upload(ctx context.Context, key string, s snapshot.Snapshot, from Origin) (Uploaded, error) {
	u, err := a.pool.Begin(ctx)
	if err != nil {
		return Uploaded{}, err
	}
	up := &uploader{Upload: u, snapshot: s, from: from}
	root, err := up.root(ctx, a)
	if err != nil {
		return Uploaded{}, errors.Join(err, u.Abort(ctx))
	}
	if err := u.Commit(ctx, key, root); err != nil {
		return Uploaded{}, err
	}
	return Uploaded{Key: key, ReadBytes: up.read.Load(), SentBytes: up.sentBytes.Load(), Sent: int(up.sent.Load())}, nil
}

// uploader is one attempt.
type uploader struct {
	*chunk.Upload
	snapshot              snapshot.Snapshot
	from                  Origin
	parent                manifest // empty where it is not in the archive
	template              []chunk.Sum
	read, sentBytes, sent atomic.Int64
}

// root stores the chunks and returns the manifest.
func (u *uploader) root(ctx context.Context, a *Archive) ([]byte, error) {
	if err := u.learn(ctx, a); err != nil {
		return nil, err
	}
	m := manifest{Manifest: u.snapshot.Manifest, Files: map[string]file{}, WorkingSet: workingSet(u.snapshot)}
	for _, name := range fileNames {
		f, err := u.file(ctx, name)
		if err != nil {
			return nil, err
		}
		m.Files[name] = f
	}
	return json.Marshal(m)
}

// workingSet returns what is known of it; nothing of a file that makes no sense.
func workingSet(s snapshot.Snapshot) []int64 {
	blocks, err := pager.ReadWorkingSet(s.WorkingSet())
	if err != nil {
		return nil
	}
	return blocks
}

// learn finds out what is known of the origin. A parent that is not in the archive, or damaged there, is as good as none.
func (u *uploader) learn(ctx context.Context, a *Archive) (err error) {
	if u.from.Template != "" {
		if u.template, err = a.templateChunks(ctx, u.from.Template); err != nil {
			return err
		}
	}
	if u.from.Parent == nil {
		return nil
	}
	root, err := u.Root(ctx, Key(u.from.Parent.Manifest))
	if err != nil {
		if code := models.CodeOf(err); code == models.NotFound || code == models.Precondition {
			return nil
		}
		return err
	}
	if parent, err := decode(root); err == nil {
		u.parent = parent
	}
	return nil
}

// fileUpload is one file of an uploader's.
type fileUpload struct {
	*uploader
	f                        *os.File
	chunks                   entries
	sums                     []chunk.Sum
	parent                   entries
	template                 []chunk.Sum
	likeParent, likeTemplate sharing
}

func (u *uploader) file(ctx context.Context, name string) (file, error) {
	f, err := os.Open(filepath.Join(u.snapshot.Dir, name))
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	described := u.snapshot.Files[name]
	up := u.newFile(f, name, described.Size)
	if err := up.run(ctx, described.Size); err != nil {
		return file{}, err
	}
	stored := file{File: described, Digest: snapshot.DigestOf(up.sums, described.Size), Chunks: up.chunks}
	if up.template != nil {
		stored.Base = &base{u.snapshot.Template.Name, u.snapshot.Template.Digest}
	}
	return stored, nil
}

func (u *uploader) newFile(f *os.File, name string, size int64) *fileUpload {
	n := (size + snapshot.ChunkSize - 1) / snapshot.ChunkSize
	up := &fileUpload{uploader: u, f: f, chunks: make(entries, n), sums: make([]chunk.Sum, n)}
	for i := range up.chunks {
		up.chunks[i], up.sums[i] = zeros, snapshot.ZeroSum
	}
	if name == snapshot.RootfsFile && u.template != nil {
		up.template = u.template
		up.likeTemplate = sharingOf(f, u.from.Template)
	}
	if known, ok := u.parent.Files[name]; ok && sameBase(known.Base, up.template != nil, u.snapshot.Template) {
		up.parent = known.Chunks
		if u.from.Parent.Dir != "" {
			up.likeParent = sharingOf(f, filepath.Join(u.from.Parent.Dir, name))
		}
	}
	return up
}

// sameBase reports whether a parent's `=` means what ours does.
func sameBase(b *base, templated bool, t snapshot.Template) bool {
	return b == nil || templated && *b == base{t.Name, t.Digest}
}

// run goes through the data of the file, many chunks at a time.
func (u *fileUpload) run(ctx context.Context, size int64) error {
	todo := make(chan int64)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(todo)
		for i, err := range snapshot.DataChunks(u.f, size) {
			if err != nil {
				return err
			}
			select {
			case todo <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range workers {
		group.Go(func() error {
			buffer := make([]byte, snapshot.ChunkSize)
			for i := range todo {
				if err := u.chunk(ctx, i, buffer); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// chunk finds out what is at place i, and stores it if need be.
func (u *fileUpload) chunk(ctx context.Context, i int64, buffer []byte) (err error) {
	if u.shared(i) {
		return nil
	}
	if err := snapshot.ReadChunk(u.f, i, buffer); err != nil {
		return err
	}
	u.read.Add(snapshot.ChunkSize)
	sum := sha256.Sum256(buffer)
	u.sums[i] = sum
	u.chunks[i], err = u.place(ctx, i, sum, buffer)
	return err
}

// shared takes over the origin's entry for a chunk that lies where the origin's does.
func (u *fileUpload) shared(i int64) bool {
	e := ofBase
	switch {
	case i < int64(len(u.template)) && u.likeTemplate.same(i):
	case i < int64(len(u.parent)) && u.likeParent.same(i) && u.usable(u.parent[i]):
		e = u.parent[i]
	default:
		return false
	}
	sum, known := e.sum(int(i), u.template)
	if known {
		u.chunks[i], u.sums[i] = e, sum
	}
	return known
}

func (u *fileUpload) usable(e entry) bool {
	return e == zeros || e == ofBase || u.Usable(chunk.Name(e))
}

// place returns the entry for a chunk whose content is known.
func (u *fileUpload) place(ctx context.Context, i int64, sum chunk.Sum, plain []byte) (entry, error) {
	if sum == snapshot.ZeroSum {
		return zeros, nil
	}
	if i < int64(len(u.template)) && u.template[i] == sum {
		return ofBase, nil
	}
	if i < int64(len(u.parent)) && u.usable(u.parent[i]) {
		if known, ok := u.parent[i].sum(int(i), u.template); ok && known == sum {
			return u.parent[i], nil
		}
	}
	name, sent, err := u.Put(ctx, sum, plain)
	if sent > 0 {
		u.sent.Add(1)
		u.sentBytes.Add(int64(sent))
	}
	return entry(name), err
}
