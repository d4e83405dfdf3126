package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// Memory may come later than all else of a snapshot, chunk by chunk. Until it is there, the snapshot is no origin of others and cannot be stored.
func TestMemoryComesLater(t *testing.T) {
	store, _ := newStore(t)
	a := New(store, newCache(t))
	here, there := newHost(t, t.TempDir()), newHost(t, t.TempDir())
	s := here.make("sn", nil, map[int]byte{0: 10, 7: 11, 8: 11, 19: 12}, map[int]byte{1: 20, 5: 0, 15: 21})
	must(t, pager.WriteWorkingSet(s.WorkingSet(), []int64{8, 0}))
	key := here.upload(a, s, nil).Key
	got, err := a.FetchLater(t.Context(), key, there.snapshots, Origin{Template: there.template})
	must(t, err)
	wantLater(t, a, got, key)
	if first, err := pager.ReadWorkingSet(got.WorkingSet()); err != nil || !slices.Equal(first, []int64{8, 0}) {
		t.Errorf("its working set is %v (%v)", first, err)
	}

	child := here.make("child", &s, map[int]byte{2: 30}, nil)
	here.upload(a, child, &s)
	wantSame(t, there.fetch(a, Key(child.Manifest), &got), child)

	memory, err := a.Memory(t.Context(), key)
	must(t, err)
	bring(t, memory, got, s)
	write(t, filepath.Join(got.Dir, snapshot.MemoryFile), 20*snapshot.ChunkSize, map[int]byte{3: 1})
	wantCode(t, "memory that is wrong", got.MemoryCame(t.Context()), models.Precondition, snapshot.MemoryFile)
	wantLater(t, a, got, key)
	bring(t, memory, got, s)
	must(t, got.MemoryCame(t.Context()))
	must(t, got.MemoryCame(t.Context()))
	must(t, got.NeedMemory())
	wantSame(t, got, s)
	_, err = got.Verify(t.Context())
	must(t, err)
}

// wantLater holds that the memory of a snapshot is not there, and that nobody takes it for what it is to be.
func wantLater(t *testing.T, a *Archive, s snapshot.Snapshot, key string) {
	t.Helper()
	if later, err := s.Later(); err != nil || later != key {
		t.Errorf("its memory is to come from %q (%v)", later, err)
	}
	const words = "has not come"
	wantCode(t, "its memory", s.NeedMemory(), models.Precondition, words)
	_, err := s.Verify(t.Context())
	wantCode(t, "verify", err, models.Precondition, words)
	_, err = a.Upload(t.Context(), s, Origin{})
	wantCode(t, "upload", err, models.Precondition, words)
}

// bring writes all chunks of a memory to the snapshot's file, which then is want's.
func bring(t *testing.T, memory *Memory, into, want snapshot.Snapshot) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(want.Dir, snapshot.MemoryFile))
	must(t, err)
	f, err := os.OpenFile(filepath.Join(into.Dir, snapshot.MemoryFile), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for i := range int64(20) {
		chunk, err := memory.Block(t.Context(), i)
		must(t, err)
		if chunk == nil {
			chunk = make([]byte, snapshot.ChunkSize)
		}
		if !bytes.Equal(chunk, data[i*snapshot.ChunkSize:][:snapshot.ChunkSize]) {
			t.Errorf("chunk %d is another", i)
		}
		_, err = f.WriteAt(chunk, i*snapshot.ChunkSize)
		must(t, err)
	}
	_, err = memory.Block(t.Context(), 20)
	wantCode(t, "a chunk behind the end", err, models.Precondition, "20 chunks")
}

// A chunk that is missing or damaged is never given out.
func TestMemoryIsDamaged(t *testing.T) {
	store, dir := newStore(t)
	a, h := New(store, nil), newHost(t, t.TempDir())
	s := h.make("sn", nil, map[int]byte{0: 10, 1: 11}, nil)
	key := h.upload(a, s, nil).Key
	memory, err := a.Memory(t.Context(), key)
	must(t, err)
	chunks := []string{}
	for _, e := range memory.chunks[:2] {
		chunks = append(chunks, filepath.Join(dir, "chunks", string(e[:2]), string(e)))
	}
	must(t, os.Remove(chunks[0]))
	must(t, os.WriteFile(chunks[1], []byte("noise"), 0o600))
	_, err = memory.Block(t.Context(), 0)
	wantCode(t, "a chunk that is missing", err, models.Precondition, "is missing")
	_, err = memory.Block(t.Context(), 1)
	wantCode(t, "a chunk that is damaged", err, models.Precondition, "is damaged")
	_, err = a.Memory(t.Context(), key+"0")
	wantCode(t, "no such snapshot", err, models.NotFound, key)
}
