package archive

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/diskcache"
	"github.com/wrenn-sandbox/wrenn/internal/object/folder"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is one with snapshots and a template.
type host struct {
	t         *testing.T
	dir       string
	snapshots *snapshot.Store
	template  string
}

const templateChunks = 12

func newHost(t *testing.T, dir string) *host {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	s, err := snapshot.Open(filepath.Join(dir, "snapshots"))
	must(t, err)
	h := &host{t, dir, s, filepath.Join(dir, "template")}
	write(t, h.template, templateChunks*snapshot.ChunkSize, map[int]byte{0: 1, 1: 2, 5: 3, 9: 4})
	return h
}

// write makes a sparse file; each chunk that is listed is noise of its own kind. What is there already is changed.
func write(t *testing.T, path string, size int64, chunks map[int]byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for i, kind := range chunks {
		noise := make([]byte, snapshot.ChunkSize)
		if kind > 0 {
			_, _ = rand.NewChaCha8([32]byte{kind}).Read(noise)
		}
		at := int64(i) * snapshot.ChunkSize
		_, err := f.WriteAt(noise[:min(snapshot.ChunkSize, size-at)], at)
		must(t, err)
	}
	must(t, f.Sync())
}

// make puts a snapshot in place: a clone of the template's disk and of the parent's memory, with these chunks changed.
func (h *host) make(id string, parent *snapshot.Snapshot, memory, disk map[int]byte) snapshot.Snapshot {
	h.t.Helper()
	g, err := h.snapshots.Stage(id)
	must(h.t, err)
	must(h.t, os.WriteFile(g.Files().State, []byte("state of "+id), 0o600))
	from := h.template
	if parent != nil {
		from = parent.Rootfs()
		h.clone(filepath.Join(parent.Dir, snapshot.MemoryFile), g.Files().Memory)
	}
	h.clone(from, g.Rootfs())
	write(h.t, g.Files().Memory, 20*snapshot.ChunkSize, memory)
	write(h.t, g.Rootfs(), 15*snapshot.ChunkSize+100, disk)
	must(h.t, g.Commit(snapshot.Manifest{
		Kind: snapshot.Pause, Sandbox: "sb-0123abcd", Template: snapshot.Template{Name: "minimal", Digest: "d1"},
		CreatedAt: time.Now().UTC(), Machine: vm.Machine{Driver: "qemu", MemoryMiB: 10},
	}))
	s, err := h.snapshots.Snapshot(id)
	must(h.t, err)
	return s
}

func (h *host) clone(from, to string) {
	h.t.Helper()
	_, err := clone.File(h.t.Context(), from, to, true)
	must(h.t, err)
}

func (h *host) upload(a *Archive, s snapshot.Snapshot, parent *snapshot.Snapshot) Uploaded {
	h.t.Helper()
	done, err := a.Upload(h.t.Context(), s, Origin{Template: h.template, Parent: parent})
	must(h.t, err)
	return done
}

func (h *host) fetch(a *Archive, key string, parent *snapshot.Snapshot) snapshot.Snapshot {
	h.t.Helper()
	s, err := a.Fetch(h.t.Context(), key, h.snapshots, Origin{Template: h.template, Parent: parent})
	must(h.t, err)
	return s
}

// wantSame holds that two snapshots have the same files, and that their digests are known to be right.
func wantSame(t *testing.T, got, want snapshot.Snapshot) {
	t.Helper()
	known, sealed, err := got.Integrity()
	if err != nil || !sealed {
		t.Fatalf("its integrity is not known: %v", err)
	}
	for _, name := range fileNames {
		a, err := os.ReadFile(filepath.Join(got.Dir, name))
		must(t, err)
		b, err := os.ReadFile(filepath.Join(want.Dir, name))
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s is another", name)
		}
		digest, err := snapshot.Digest(t.Context(), filepath.Join(want.Dir, name))
		must(t, err)
		if known.Files[name] != digest {
			t.Errorf("%s has the digest %s, want %s", name, known.Files[name], digest)
		}
	}
}

// tampered is a store of which calls fail or are counted.
type tampered struct {
	object.Store
	puts, gets atomic.Int64   // of chunks
	failAfter  int64          // puts of chunks, which are let through whole before another one fails; 0: never
	passing    sync.WaitGroup // those that are let through
}

var errBroken = errors.New("the way to the store broke")

func (s *tampered) Put(ctx context.Context, key string, data []byte) error {
	if n := s.count(&s.puts, key); s.failAfter > 0 && n > 0 {
		if n > s.failAfter {
			s.passing.Wait() // its failure breaks off what is under way beside it
			return errBroken
		}
		defer s.passing.Done()
	}
	return s.Store.Put(ctx, key, data)
}

func (s *tampered) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	s.count(&s.gets, key)
	return s.Store.Get(ctx, key, limit)
}

// count returns which one this is, from 1, and 0 of what is not a chunk.
func (s *tampered) count(n *atomic.Int64, key string) int64 {
	if !strings.HasPrefix(key, "chunks/") {
		return 0
	}
	return n.Add(1)
}

// newStore returns a folder of objects.
func newStore(t *testing.T) (*tampered, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := folder.Open(dir)
	must(t, err)
	return &tampered{Store: s}, dir
}

func newCache(t *testing.T) *diskcache.Cache {
	t.Helper()
	c, err := diskcache.Open(t.TempDir(), 1<<30)
	must(t, err)
	return c
}

func wantCode(t *testing.T, what string, err error, code models.Code, words string) {
	t.Helper()
	if err == nil || models.CodeOf(err) != code || !strings.Contains(models.AsError(err).Message, words) {
		t.Errorf("%s: %v, want %s with %q", what, err, code, words)
	}
}
