package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stage makes the files of a snapshot, each with word as its content.
func stage(t *testing.T, s *Store, word string) *Staging {
	t.Helper()
	g, err := s.Stage("sn")
	must(t, err)
	for _, path := range []string{g.Files().State, g.Files().Memory, g.Rootfs()} {
		must(t, os.WriteFile(path, []byte(word+" "+filepath.Base(path)), 0o600))
	}
	return g
}

func manifest(word string) Manifest {
	return Manifest{
		Kind: Named, Sandbox: "sb-0123abcd", Parent: "golden-x", Template: Template{"minimal", "d1"}, CreatedAt: time.Unix(1, 0).UTC(),
		Machine: vm.Machine{Driver: "qemu", Version: "7.2", MemoryMiB: 256, VCPUs: 1}, Kernel: "k", Envd: word, Network: true,
	}
}

func store(t *testing.T, s *Store, word string) {
	t.Helper()
	must(t, stage(t, s, word).Commit(manifest(word)))
}

func storeSealed(t *testing.T, s *Store, word string) {
	t.Helper()
	g := stage(t, s, word)
	must(t, g.Seal(t.Context(), nil))
	must(t, g.Commit(manifest(word)))
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "snapshots"))
	must(t, err)
	return s
}

// What was stored is found again, as it was.
func TestStoreAndOpen(t *testing.T) {
	s := open(t)
	storeSealed(t, s, "first")
	got, err := s.Snapshot("sn")
	must(t, err)
	want := manifest("first")
	want.Format, want.ID, want.Files = Format, "sn", got.Files
	if diff := cmp.Diff(want, got.Manifest); diff != "" {
		t.Error(diff)
	}
	if got.Files[MemoryFile].Size != int64(len("first memory")) || got.Files[VMStateFile].SHA256 == "" || got.Files[RootfsFile].SHA256 != "" {
		t.Errorf("files: %+v", got.Files)
	}
	image := got.Image()
	if image.Memory != filepath.Join(got.Dir, "memory") || image.State != filepath.Join(got.Dir, "vmstate") || image.Machine != want.Machine {
		t.Errorf("image: %+v", image)
	}
	sealed, known, err := got.Integrity()
	if err != nil || !known || len(sealed.Files) != 3 || sealed.VerifiedAt.IsZero() {
		t.Errorf("integrity: %+v %v %v", sealed, known, err)
	}
	must(t, s.Remove("sn"))
	must(t, s.Remove("sn"))
	if list, err := s.List(); err != nil || len(list) > 0 {
		t.Errorf("after the removal: %v %v", list, err)
	}
	if entries, _ := os.ReadDir(s.dir); len(entries) > 0 {
		t.Errorf("left over: %v", entries)
	}
}

// What is wrong with a snapshot is told with the name of the file.
func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		code  models.Code
		want  string
	}{
		"missing":           {os.RemoveAll, models.NotFound, "no snapshot sn"},
		"no manifest":       {func(dir string) error { return os.Remove(filepath.Join(dir, manifestFile)) }, models.Precondition, "damaged: manifest.json"},
		"torn manifest":     {truncate(manifestFile, 20), models.Precondition, "damaged: manifest.json"},
		"newer format":      {edit(manifestFile, `"format": 1`, `"format": 2`), models.Precondition, "format 2"},
		"another's":         {edit(manifestFile, `"id": "sn"`, `"id": "ns"`), models.Precondition, "damaged: manifest.json"},
		"short memory":      {truncate(MemoryFile, 3), models.Precondition, "damaged: memory"},
		"no disk":           {func(dir string) error { return os.Remove(filepath.Join(dir, RootfsFile)) }, models.Precondition, "damaged: rootfs"},
		"changed state":     {edit(VMStateFile, "first", "worst"), models.Precondition, "damaged: vmstate"},
		"link for a memory": {relink(MemoryFile), models.Precondition, "damaged: memory"},
		"unlisted file":     {edit(manifestFile, `"rootfs": {`, `"rootsf": {`), models.Precondition, "damaged: rootfs"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			store(t, s, "first")
			must(t, c.spoil(filepath.Join(s.dir, "sn")))
			_, err := s.Snapshot("sn")
			var coded *models.Error
			if !errors.As(err, &coded) || coded.Code != c.code || !strings.Contains(coded.Message, c.want) {
				t.Errorf("error %v, want %s with %q", err, c.code, c.want)
			}
			list, err := s.List()
			if c.code != models.NotFound && (err != nil || len(list) != 1 || list[0].Err == nil) {
				t.Errorf("list: %+v %v", list, err)
			}
		})
	}
}

func truncate(name string, size int64) func(string) error {
	return func(dir string) error { return os.Truncate(filepath.Join(dir, name), size) }
}

func edit(name, old, replacement string) func(string) error {
	return func(dir string) error {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(text), old) {
			return errors.Join(err, errors.New("there is no "+old))
		}
		return os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(string(text), old, replacement, 1)), 0o600)
	}
}

func relink(name string) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path))
	}
}

// Verify finds what opening does not look for, and seals what was not sealed.
func TestVerify(t *testing.T) {
	s := open(t)
	store(t, s, "first")
	got, err := s.Snapshot("sn")
	must(t, err)
	if _, known, err := got.Integrity(); known || err != nil {
		t.Errorf("before: %v %v", known, err)
	}
	first, err := got.Verify(t.Context())
	must(t, err)
	again, err := got.Verify(t.Context())
	must(t, err)
	if !again.SealedAt.Equal(first.SealedAt) || !again.VerifiedAt.After(first.VerifiedAt) {
		t.Errorf("verified %v, then %v", first, again)
	}
	must(t, edit(MemoryFile, "first", "worst")(got.Dir))
	if _, err := got.Verify(t.Context()); !strings.Contains(models.AsError(err).Message, "damaged: memory") {
		t.Errorf("of changed memory: %v", err)
	}
	if last, _, err := got.Integrity(); err != nil || !last.VerifiedAt.Equal(again.VerifiedAt) {
		t.Errorf("a damaged snapshot counts as verified: %v %v", last, err)
	}
}

// TestScrub: what is read slowly has the digests of what is read at once, sealed before or not, and damage is found; nothing is read that may not be.
func TestScrub(t *testing.T) {
	s := open(t)
	store(t, s, "first")
	got, err := s.Snapshot("sn")
	must(t, err)
	reads := 0
	wait := func() error { reads++; return nil }
	sealed, err := got.Scrub(wait)
	must(t, err)
	if verified, err := got.Verify(t.Context()); err != nil || !cmp.Equal(verified.Files, sealed.Files) || reads == 0 {
		t.Errorf("after %d reads %v, at once %v, %v", reads, sealed.Files, verified.Files, err)
	}
	if again, err := got.Scrub(wait); err != nil || !again.SealedAt.Equal(sealed.SealedAt) || !again.VerifiedAt.After(sealed.VerifiedAt) {
		t.Errorf("%+v, then %+v, %v", sealed, again, err)
	}
	enough := errors.New("enough")
	if _, err := got.Scrub(func() error { return enough }); !errors.Is(err, enough) {
		t.Errorf("who must wait no longer: %v", err)
	}
	must(t, edit(MemoryFile, "first", "worst")(got.Dir))
	if _, err := got.Scrub(wait); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "damaged: memory") {
		t.Errorf("of changed memory: %v", err)
	}
}

// Seal refuses what was not meant to be imported.
func TestSealWithDigests(t *testing.T) {
	s := open(t)
	g := stage(t, s, "first")
	digest, err := Digest(t.Context(), g.Files().Memory)
	must(t, err)
	must(t, g.Seal(t.Context(), map[string]string{MemoryFile: digest}))
	if err := g.Seal(t.Context(), map[string]string{RootfsFile: digest}); err == nil || !strings.Contains(err.Error(), "damaged: rootfs") {
		t.Errorf("another digest: %v", err)
	}
	must(t, g.Abort())
	must(t, g.Abort())
	if entries, _ := os.ReadDir(s.dir); len(entries) > 0 {
		t.Errorf("left over: %v", entries)
	}
}

// The digest of a file says what is in it and how long it is, whether zeros are stored or not.
func TestDigest(t *testing.T) {
	digest := func(size int64, write map[int64]string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file")
		f, err := os.Create(path)
		must(t, err)
		must(t, f.Truncate(size))
		for at, text := range write {
			_, err := f.WriteAt([]byte(text), at)
			must(t, err)
		}
		must(t, f.Close())
		sum, err := Digest(t.Context(), path)
		must(t, err)
		return sum
	}
	const size = 5*ChunkSize + 100
	zeros := strings.Repeat("\x00", 2*ChunkSize)
	if digest(size, nil) != digest(size, map[int64]string{ChunkSize: zeros, 5 * ChunkSize: zeros[:100]}) {
		t.Error("stored zeros and holes differ")
	}
	seen := map[string]bool{}
	for _, d := range []string{
		digest(0, nil), digest(size, nil), digest(size-1, nil), digest(size, map[int64]string{0: "x"}), digest(size, map[int64]string{ChunkSize: "x"}),
		digest(size, map[int64]string{ChunkSize - 1: "x"}), digest(size, map[int64]string{size - 1: "x"}), digest(size, map[int64]string{0: "y"}),
	} {
		if seen[d] {
			t.Errorf("%s comes twice", d)
		}
		seen[d] = true
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(path, []byte(strings.Repeat("x", 4*ChunkSize)), 0o600))
	if _, err := Digest(ended, path); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNames(t *testing.T) {
	s := open(t)
	for _, id := range []string{"", ".", "..", "a/b", "A", ".sn.1.wrenn-tmp", strings.Repeat("x", 65), "sn\x00"} {
		_, open := s.Snapshot(id)
		_, stage := s.Stage(id)
		for _, err := range []error{open, stage, s.Remove(id)} {
			if models.AsError(err).Code != models.Invalid {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
}

// failing is a disk of which one kind of step fails.
type failing struct {
	disk
	syncDirs, exchanges bool
}

var errFails = errors.New("it fails")

func (f failing) syncDir(path string) error {
	if f.syncDirs && !strings.Contains(filepath.Base(path), "wrenn-tmp") {
		return errFails
	}
	return f.disk.syncDir(path)
}

func (f failing) exchange(a, b string) error {
	if f.exchanges {
		return errFails
	}
	return f.disk.exchange(a, b)
}

// A snapshot that cannot take its place leaves the one that is there.
func TestFailedCommitKeepsTheOld(t *testing.T) {
	for _, f := range []failing{{syncDirs: true}, {exchanges: true}} {
		s := open(t)
		store(t, s, "old")
		f.disk = s.disk
		s.disk = f
		if err := stage(t, s, "new").Commit(manifest("new")); !errors.Is(err, errFails) {
			t.Errorf("%+v: %v", f, err)
		}
		got, err := s.Snapshot("sn")
		must(t, err)
		if word := contentOf(t, got); word != "old" {
			t.Errorf("%+v: found %q", f, word)
		}
		if entries, _ := os.ReadDir(s.dir); len(entries) != 1 {
			t.Errorf("%+v: left over: %v", f, entries)
		}
	}
}
