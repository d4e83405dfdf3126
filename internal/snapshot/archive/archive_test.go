package archive

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// A snapshot comes out on another host as it went in, holes and all, and costs nothing the second time.
func TestThereAndBack(t *testing.T) {
	for name, objects := range map[string]func() object.Store{
		"folder": func() object.Store { s, _ := newStore(t); return s },
		"S3":     func() object.Store { s, err := s3.New(s3test.ForTest(t).Options()); must(t, err); return s },
	} {
		t.Run(name, func(t *testing.T) {
			here, there := newHost(t, t.TempDir()), newHost(t, t.TempDir())
			a := New(objects(), newCache(t))
			s := here.make("sn", nil, map[int]byte{0: 10, 7: 11, 8: 11, 12: 0, 19: 12}, map[int]byte{1: 20, 5: 0, 15: 21})
			first := here.upload(a, s, nil)
			if first.Sent != 6 || first.SentBytes < 4*snapshot.ChunkSize || first.Key != Key(s.Manifest) { // 10, 11, 12, 20, 21 and vmstate
				t.Errorf("first: %+v", first)
			}
			if again := here.upload(a, s, nil); again.Sent != 0 || again.SentBytes != 0 {
				t.Errorf("again: %+v", again)
			}
			got := there.fetch(a, first.Key, nil)
			wantSame(t, got, s)
			if info, err := os.Stat(filepath.Join(got.Dir, snapshot.MemoryFile)); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 > 6*snapshot.ChunkSize {
				t.Errorf("its memory is not sparse: %+v %v", info.Sys(), err)
			}
			must(t, a.Verify(t.Context(), first.Key, here.template))
			must(t, a.Verify(t.Context(), first.Key, ""))
			must(t, a.Delete(t.Context(), first.Key))
			_, err := a.Fetch(t.Context(), first.Key, there.snapshots, Origin{Template: there.template})
			wantCode(t, "after its removal", err, models.NotFound, first.Key)
		})
	}
}

// Of a snapshot whose parent is stored only what changed is sent, and where blocks are shared, read; and fetched, where the parent is.
func TestOnlyChanges(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	volume, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{SizeGiB: 1})
	must(t, err)
	t.Cleanup(func() { must(t, filesystem.UnmountVolume(t.Context(), dir)) })
	for name, c := range map[string]struct {
		dir  string
		read int64 // chunks of the second snapshot that have to be read
	}{
		"reflinks": {volume.Dir, 4},   // what changed, and vmstate
		"copies":   {t.TempDir(), 11}, // all that are not holes
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := newStore(t)
			a := New(store, nil)
			here, there := newHost(t, filepath.Join(c.dir, "here")), newHost(t, filepath.Join(c.dir, "there"))
			parent := here.make("parent", nil, map[int]byte{0: 10, 1: 11, 2: 12, 3: 13, 4: 14}, map[int]byte{1: 20, 3: 21})
			parentKey := here.upload(a, parent, nil).Key
			child := here.make("child", &parent, map[int]byte{2: 30}, map[int]byte{1: 2, 3: 31}) // 1 as the template has it again
			done := here.upload(a, child, &parent)
			if done.Sent != 3 || done.ReadBytes != c.read*snapshot.ChunkSize {
				t.Errorf("sent %d chunks, read %d, want 3 and %d", done.Sent, done.ReadBytes/snapshot.ChunkSize, c.read)
			}
			must(t, a.Delete(t.Context(), parentKey)) // it is whole without
			wantSame(t, there.fetch(a, done.Key, nil), child)

			here.upload(a, parent, nil)
			fetchedParent := there.fetch(a, parentKey, nil)
			store.gets.Store(0)
			wantSame(t, there.fetch(a, done.Key, &fetchedParent), child)
			if n := store.gets.Load(); n != 3 {
				t.Errorf("%d chunks were fetched, want 3", n)
			}
		})
	}
}

// An upload that broke off goes on where it was; until it is done there is no snapshot.
func TestBrokenUploadGoesOn(t *testing.T) {
	store, _ := newStore(t)
	h, a := newHost(t, t.TempDir()), New(store, nil)
	memory := map[int]byte{}
	for i := range 20 {
		memory[i] = byte(100 + i)
	}
	s := h.make("sn", nil, memory, nil)
	store.failAfter = 9
	store.passing.Add(9)
	if _, err := a.Upload(t.Context(), s, Origin{Template: h.template}); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	for key, err := range a.Keys(t.Context()) {
		t.Errorf("there is %s, %v", key, err)
	}
	store.failAfter = 0
	store.puts.Store(0)
	if done := h.upload(a, s, nil); done.Sent != 21-9 || store.puts.Load() != 21-9 {
		t.Errorf("sent %d, want the %d that were not there", done.Sent, 21-9)
	}
	must(t, a.Verify(t.Context(), Key(s.Manifest), h.template))
}

// kill -9 of the server in the middle of an upload, and of a fetch: an error that says so, nothing half done, and when it is back all goes on.
func TestServerIsKilled(t *testing.T) {
	server := s3test.ForTest(t)
	objects, err := s3.New(server.Options())
	must(t, err)
	h := newHost(t, t.TempDir())
	memory := map[int]byte{}
	for i := range 20 {
		memory[i] = byte(100 + i)
	}
	s := h.make("sn", nil, memory, nil)
	killing := &killer{Store: objects, server: server, after: 7}
	_, err = New(killing, nil).Upload(t.Context(), s, Origin{Template: h.template})
	wantCode(t, "upload", err, models.Unavailable, "object store")
	must(t, server.Restart())
	a := New(objects, nil)
	if done := h.upload(a, s, nil); done.Sent == 0 || done.Sent >= 21 {
		t.Errorf("sent %d after the restart", done.Sent)
	}
	there := newHost(t, t.TempDir())
	killing = &killer{Store: objects, server: server, after: 7}
	_, err = New(killing, nil).Fetch(t.Context(), Key(s.Manifest), there.snapshots, Origin{Template: there.template})
	wantCode(t, "fetch", err, models.Unavailable, "object store")
	if left, _ := os.ReadDir(filepath.Join(there.dir, "snapshots")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	must(t, server.Restart())
	wantSame(t, there.fetch(a, Key(s.Manifest), nil), s)
}

// What the archive cannot do on this host it says, and leaves what is there.
func TestFetchWithoutRoom(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	small, err := snapshot.Open(filepath.Join(dir, "snapshots"))
	must(t, err)
	store, _ := newStore(t)
	h, a := newHost(t, t.TempDir()), New(store, nil)
	s := h.make("sn", nil, map[int]byte{0: 10, 1: 11, 2: 12}, nil)
	h.upload(a, s, nil)
	_, err = a.Fetch(t.Context(), Key(s.Manifest), small, Origin{Template: h.template})
	wantCode(t, "a full disk", err, models.Exhausted, "disk is full")
	if left, _ := os.ReadDir(filepath.Join(dir, "snapshots")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// Chunks go when the last snapshot that needs them has gone.
func TestCollect(t *testing.T) {
	store, _ := newStore(t)
	h, a := newHost(t, t.TempDir()), New(store, nil)
	a.pool.Grace = 1
	one := h.make("one", nil, map[int]byte{0: 10, 1: 11}, nil)
	two := h.make("two", nil, map[int]byte{0: 10, 1: 12}, nil)
	h.upload(a, one, nil)
	h.upload(a, two, nil)
	did, err := a.Collect(t.Context())
	if err != nil || did.Deleted != 0 || did.Roots != 2 || did.Chunks != 5 {
		t.Errorf("nothing to collect: %+v %v", did, err)
	}
	must(t, a.Delete(t.Context(), Key(one.Manifest)))
	did, err = a.Collect(t.Context())
	if err != nil || did.Deleted != 2 || did.Bytes < snapshot.ChunkSize {
		t.Errorf("one of two: %+v %v", did, err)
	}
	must(t, a.Verify(t.Context(), Key(two.Manifest), h.template))
	if again := h.upload(a, one, nil); again.Sent != 2 {
		t.Errorf("uploaded again: %+v", again)
	}
	must(t, a.Verify(t.Context(), Key(one.Manifest), h.template))
}
