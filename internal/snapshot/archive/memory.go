package archive

import (
	"context"
	"errors"
	"os"

	"github.com/wrenn-sandbox/wrenn/internal/chunk"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// Memory is the memory of a stored snapshot, which is read chunk by chunk while a VM runs from it: a pager.Source.
type Memory struct {
	archive *Archive
	key     string
	chunks  entries
}

var _ pager.Source = (*Memory)(nil)

// A pager asks for chunks.
var _ = [1]struct{}{}[pager.BlockSize-snapshot.ChunkSize]

// Memory opens the memory of a stored snapshot. Its list of chunks is held against its digest; each chunk is checked when it is read. Errors: NotFound,
// Precondition, and those of the store.
func (a *Archive) Memory(ctx context.Context, key string) (*Memory, error) {
	m, err := a.manifest(ctx, key)
	if err != nil {
		return nil, err
	}
	f := m.Files[snapshot.MemoryFile]
	if _, err := a.fileSums(ctx, key, snapshot.MemoryFile, f, ""); err != nil {
		return nil, err
	}
	return &Memory{a, key, f.Chunks}, nil
}

// BringMemory brings all of the memory that is to come later into a snapshot of this host that no VM runs from, which then is like any other. After an error it is as
// it was.
func (a *Archive) BringMemory(ctx context.Context, s snapshot.Snapshot) error {
	key, err := s.Later()
	if err != nil || key == "" {
		return err
	}
	if err := a.bringMemory(ctx, key, s); err != nil {
		return wrap("fetch the memory of", key, err)
	}
	return s.MemoryCame(ctx)
}

func (a *Archive) bringMemory(ctx context.Context, key string, s snapshot.Snapshot) error {
	m, err := a.manifest(ctx, key)
	if err != nil {
		return err
	}
	want := m.Files[snapshot.MemoryFile]
	sums, err := a.fileSums(ctx, key, snapshot.MemoryFile, want, "")
	if err == nil {
		err = s.EmptyMemory()
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.Image().Memory, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	w := &fileFetch{archive: a, want: want, sums: sums}
	return errors.Join(w.fill(ctx, f, origin{}), f.Close())
}

// Block returns chunk i; nil for one of zeros. Nobody may write to it. Errors: Precondition where it is missing or damaged, and those of the store.
func (m *Memory) Block(ctx context.Context, i int64) ([]byte, error) {
	if i < 0 || i >= int64(len(m.chunks)) {
		return nil, models.Errorf(models.Precondition, "the memory of the stored snapshot %s has %d chunks, and is asked for number %d", m.key, len(m.chunks), i)
	}
	if m.chunks[i] == zeros {
		return nil, nil
	}
	return m.archive.pool.Chunk(ctx, chunk.Name(m.chunks[i]))
}
