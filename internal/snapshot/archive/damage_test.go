package archive

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// spoiler changes the files of an object folder.
type spoiler struct {
	t        *testing.T
	manifest string
	chunks   []string // those of memory, in order
}

func (s spoiler) edit(path string, change func([]byte) []byte) {
	s.t.Helper()
	text, err := os.ReadFile(path)
	must(s.t, err)
	must(s.t, os.WriteFile(path, change(text), 0o600))
}

func unpack(t *testing.T, frame []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	must(t, err)
	defer d.Close()
	text, err := d.DecodeAll(frame, nil)
	must(t, err)
	return text
}

func pack(t *testing.T, text []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	must(t, err)
	defer e.Close()
	return e.EncodeAll(text, nil)
}

// editManifest replaces a part of the stored manifest.
func (s spoiler) editManifest(old, replacement string) {
	s.t.Helper()
	s.edit(s.manifest, func(frame []byte) []byte {
		text := string(unpack(s.t, frame))
		if !strings.Contains(text, old) {
			s.t.Fatalf("there is no %s in %s", old, text)
		}
		return pack(s.t, []byte(strings.Replace(text, old, replacement, 1)))
	})
}

// TestDamage: what is wrong in the store is told, and nothing of it comes into place; a snapshot of that name which is there stays.
func TestDamage(t *testing.T) {
	const chunkDamaged, chunkMissing = "damaged", "missing"
	for name, c := range map[string]struct {
		spoil func(s spoiler)
		want  string
	}{
		"chunk missing":   {func(s spoiler) { must(t, os.Remove(s.chunks[1])) }, chunkMissing},
		"chunk truncated": {func(s spoiler) { must(t, os.Truncate(s.chunks[1], 5000)) }, chunkDamaged},
		"chunk empty":     {func(s spoiler) { must(t, os.Truncate(s.chunks[1], 0)) }, chunkDamaged},
		"chunk flipped":   {func(s spoiler) { s.edit(s.chunks[1], func(b []byte) []byte { b[5000] ^= 1; return b }) }, chunkDamaged},
		"chunk of another": {func(s spoiler) {
			must(t, os.Rename(s.chunks[0], s.chunks[1]))
			must(t, os.WriteFile(s.chunks[0], nil, 0o600))
		}, chunkDamaged},
		"chunk too long": {func(s spoiler) { must(t, os.WriteFile(s.chunks[1], make([]byte, 2*snapshot.ChunkSize), 0o600)) }, "longer"},
		"chunk too large": {func(s spoiler) {
			must(t, os.WriteFile(s.chunks[1], pack(t, make([]byte, 1<<30)), 0o600))
		}, chunkDamaged},
		"chunk too short":    {func(s spoiler) { must(t, os.WriteFile(s.chunks[1], pack(t, []byte("short")), 0o600)) }, chunkDamaged},
		"manifest truncated": {func(s spoiler) { must(t, os.Truncate(s.manifest, 100)) }, "damaged"},
		"manifest foreign":   {func(s spoiler) { must(t, os.WriteFile(s.manifest, pack(t, []byte("{}")), 0o600)) }, "format"},
		"no manifest at all": {func(s spoiler) { must(t, os.WriteFile(s.manifest, []byte("hello"), 0o600)) }, "damaged"},
		"newer format":       {func(s spoiler) { s.editManifest(`"format":1`, `"format":2`) }, "format 2"},
		"another's":          {func(s spoiler) { s.editManifest(`"id":"sn"`, `"id":"ns"`) }, "damaged"},
		"list cut":           {func(s spoiler) { s.editManifest(`"0*18"`, `"0*17"`) }, "damaged: memory"},
		"list changed":       {func(s spoiler) { s.editManifest(`"0*18"`, `"0*17","`+strings.Repeat("ab", 32)+`"`) }, "damaged: memory"},
		"list too long":      {func(s spoiler) { s.editManifest(`"0*18"`, `"0*99999999999"`) }, "damaged"},
		"no chunk's name":    {func(s spoiler) { s.editManifest(`"0*18"`, `"../../etc/passwd"`) }, "damaged"},
		"base of nothing":    {func(s spoiler) { s.editManifest(`"0*18"`, `"=*18"`) }, "damaged: memory"},
		"size changed":       {func(s spoiler) { s.editManifest(`"size":10485760`, `"size":10485759`) }, "damaged: memory"},
		"state's sum":        {func(s spoiler) { s.editManifest(`"sha256":"`, `"sha256":"00`) }, "damaged: vmstate"},
		"file missing":       {func(s spoiler) { s.editManifest(`"rootfs":{`, `"rootsf":{`) }, "damaged: rootfs"},
		"another template":   {func(s spoiler) { s.editManifest(`"=`, `"0`) }, "template minimal"},
	} {
		t.Run(name, func(t *testing.T) {
			store, dir := newStore(t)
			h, a := newHost(t, t.TempDir()), New(store, nil)
			s := h.make("sn", nil, map[int]byte{0: 10, 1: 11}, nil)
			key := h.upload(a, s, nil).Key
			m, err := a.manifest(t.Context(), key)
			must(t, err)
			sp := spoiler{t: t, manifest: filepath.Join(dir, "manifests", key)}
			for _, e := range m.Files[snapshot.MemoryFile].Chunks[:2] {
				sp.chunks = append(sp.chunks, filepath.Join(dir, "chunks", string(e[:2]), string(e)))
			}
			c.spoil(sp)
			there := newHost(t, t.TempDir())
			old := there.make("sn", nil, map[int]byte{0: 77}, nil)
			_, err = a.Fetch(t.Context(), key, there.snapshots, Origin{Template: there.template})
			wantCode(t, "fetch", err, models.Precondition, c.want)
			if name != "state's sum" { // which only the folder has to agree with
				wantCode(t, "verify", a.Verify(t.Context(), key, there.template), models.Precondition, c.want)
				wantCode(t, "scrub", a.Scrub(t.Context(), key, there.template, func() error { return nil }), models.Precondition, c.want)
			}
			still, err := there.snapshots.Snapshot("sn")
			must(t, err)
			if still.CreatedAt != old.CreatedAt {
				t.Error("the snapshot that was there is another")
			}
			if left, _ := os.ReadDir(filepath.Join(there.dir, "snapshots")); len(left) != 1 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// A host that has no such template, or another one of that name, says so.
func TestWrongTemplate(t *testing.T) {
	store, _ := newStore(t)
	h, a := newHost(t, t.TempDir()), New(store, nil)
	key := h.upload(a, h.make("sn", nil, nil, nil), nil).Key
	there := newHost(t, t.TempDir())
	write(t, there.template, templateChunks*snapshot.ChunkSize, map[int]byte{0: 99})
	for what, path := range map[string]string{"none": "", "another": there.template, "missing": filepath.Join(there.dir, "no")} {
		_, err := a.Fetch(t.Context(), key, there.snapshots, Origin{Template: path})
		wantCode(t, what, err, models.Precondition, "template minimal")
	}
}

// A chunk that is wrong in the cache, as after a power cut, is fetched again.
func TestTornCache(t *testing.T) {
	store, _ := newStore(t)
	h := newHost(t, t.TempDir())
	key := h.upload(New(store, nil), h.make("sn", nil, map[int]byte{0: 10}, nil), nil).Key
	cache := newCache(t)
	a := New(store, cache)
	m, err := a.manifest(t.Context(), key)
	must(t, err)
	name := m.Files[snapshot.MemoryFile].Chunks[0]
	there := newHost(t, t.TempDir())
	first := there.fetch(a, key, nil)
	must(t, cache.Drop(string(name)))
	_, err = cache.Get(t.Context(), string(name), func(_ context.Context) ([]byte, error) { return []byte("torn"), nil })
	must(t, err)
	wantSame(t, there.fetch(a, key, nil), first)

}

// killer kills the server after so many chunks.
type killer struct {
	object.Store
	server *s3test.Server
	after  int64
	n      tampered
}

func (k *killer) Put(ctx context.Context, key string, data []byte) error {
	if k.n.count(&k.n.puts, key) == k.after {
		k.server.Kill()
	}
	return k.Store.Put(ctx, key, data)
}

func (k *killer) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if k.n.count(&k.n.gets, key) == k.after {
		k.server.Kill()
	}
	return k.Store.Get(ctx, key, limit)
}

// Runs are written and read as the format has them.
func TestRuns(t *testing.T) {
	name := entry(strings.Repeat("ab", 32))
	list := entries{zeros, zeros, name, name, ofBase, zeros, ofBase, ofBase, ofBase, name + ".x2"}
	text, err := json.Marshal(list)
	must(t, err)
	want := `["0*2","` + string(name) + `","` + string(name) + `","=","0","=*3","` + string(name) + `.x2"]`
	if string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	var back entries
	must(t, json.Unmarshal(text, &back))
	if len(back) != len(list) {
		t.Errorf("%v", back)
	}
	for _, bad := range []string{`["0*0"]`, `["0*-1"]`, `["0*x"]`, `["1"]`, `[""]`, `["` + string(name) + `*2"]`, `["0*2000000","0*2000000"]`, `[1]`, `{}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s is read as %d chunks", bad, len(back))
		}
	}

}
