package filesystem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbb"
)

func TestImportFollowsLinksAndIsIdempotent(t *testing.T) {
	store := openStore(t, t.TempDir(), nil)
	source, links := image(t, "python311", digestA, 8), t.TempDir()
	for _, name := range []string{filesystem.RootfsName, filesystem.ManifestName} {
		if err := os.Symlink(filepath.Join(source, name), filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	first := mustImport(t, store, links)
	wantSame(t, filepath.Join(source, filesystem.RootfsName), first.Rootfs)
	before := stat(t, first.Rootfs)
	again := mustImport(t, store, links)
	if !os.SameFile(before, stat(t, again.Rootfs)) {
		t.Error("the same image was copied again")
	}
	wantNames(t, filepath.Dir(filepath.Dir(first.Rootfs)), "current", "sha256-aaaaaaaaaaaaaaaa")
	wantNames(t, filepath.Dir(first.Rootfs), "manifest.json", "rootfs.ext4")
}

func TestNewVersionReplacesAndPruneRemoves(t *testing.T) {
	store := openStore(t, t.TempDir(), nil)
	a := mustImport(t, store, image(t, "python311", digestA, 4))
	b := mustImport(t, store, image(t, "python311", digestB, 4))
	wantCurrent(t, store, "python311", digestB)
	prune := func(inUse ...string) {
		t.Helper()
		set := map[string]bool{}
		for _, d := range inUse {
			set[d] = true
		}
		if err := store.Prune(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	prune(digestA)
	stat(t, a.Rootfs)
	prune()
	if _, err := os.Stat(a.Rootfs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old version is still there: %v", err)
	}
	stat(t, b.Rootfs)
	mustImport(t, store, image(t, "python311", digestA, 4)) // back to the old one
	wantCurrent(t, store, "python311", digestA)
}

func TestTemplates(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir, nil)
	_, err := store.Template("python311")
	wantCode(t, err, models.NotFound, "make images")
	mustImport(t, store, image(t, "python311", digestA, 4))
	mustImport(t, store, image(t, "minimal", digestB, 4))
	list, err := store.Templates()
	if err != nil || len(list) != 2 || list[0].Name != "minimal" || list[1].Name != "python311" {
		t.Errorf("templates = %+v, %v", list, err)
	}
	for _, name := range []string{"python312", "", ".", "..", "../images/minimal", "minimal/current", "Minimal", "minimal\x00"} {
		_, err := store.Template(name)
		wantCode(t, err, models.NotFound, "minimal, python311")
	}
	if err := os.Remove(list[0].Rootfs); err != nil {
		t.Fatal(err)
	}
	list, err = store.Templates()
	if err == nil || len(list) != 1 || list[0].Name != "python311" {
		t.Errorf("with one broken: %+v, %v; want the other one and an error", list, err)
	}
}

func TestImportRefuses(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir, nil)
	good := filesystem.Manifest{Name: "python311", Digest: digestA, DiskMiB: 4}
	for what, change := range map[string]func(*filesystem.Manifest){
		"a name that climbs out":   func(m *filesystem.Manifest) { m.Name = "../../etc" },
		"a name that is a folder":  func(m *filesystem.Manifest) { m.Name = "a/b" },
		"a hidden name":            func(m *filesystem.Manifest) { m.Name = ".python" },
		"no name":                  func(m *filesystem.Manifest) { m.Name = "" },
		"a digest that climbs out": func(m *filesystem.Manifest) { m.Digest = "sha256:/../../../x" },
		"a digest too short":       func(m *filesystem.Manifest) { m.Digest = "current" },
		"a larger size":            func(m *filesystem.Manifest) { m.DiskMiB = 5 },
		"no size":                  func(m *filesystem.Manifest) { m.DiskMiB = 0 },
	} {
		source, m := image(t, "python311", digestA, 4), good
		change(&m)
		writeManifest(t, source, m)
		_, err := store.Import(t.Context(), source)
		t.Log(what, err)
		wantCode(t, err, models.Invalid, "template")
	}
	if _, err := store.Import(t.Context(), t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	wantNames(t, dir, "images")
	wantNames(t, filepath.Join(dir, "images"))
}

func TestImportGivesUpWithoutTrace(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Import(ctx, image(t, "python311", digestA, 8)); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	wantNames(t, filepath.Join(dir, "images", "python311"))
	full := tmpfs(t, "2m")
	_, err := openStore(t, full, nil).Import(t.Context(), image(t, "python311", digestA, 32))
	wantCode(t, err, models.Exhausted, "full")
	wantNames(t, filepath.Join(full, "images", "python311"))
}

func TestImportMendsADamagedImage(t *testing.T) {
	store := openStore(t, t.TempDir(), nil)
	source := image(t, "python311", digestA, 4)
	template := mustImport(t, store, source)
	if err := os.Truncate(template.Rootfs, mib); err != nil {
		t.Fatal(err)
	}
	wantSame(t, mustImport(t, store, source).Rootfs, filepath.Join(source, filesystem.RootfsName))
}

func TestImportsAtTheSameTime(t *testing.T) {
	store := openStore(t, t.TempDir(), nil)
	a, b := image(t, "python311", digestA, 8), image(t, "python311", digestB, 8)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if _, err := store.Import(t.Context(), []string{a, b}[i%2]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	template, err := store.Template("python311")
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, filepath.Join(filepath.Dir(template.Rootfs), ".."), "current", "sha256-aaaaaaaaaaaaaaaa", "sha256-bbbbbbbbbbbbbbbb")
}

func wantCurrent(t *testing.T, store *filesystem.Store, name, digest string) {
	t.Helper()
	if got, err := store.Template(name); err != nil || got.Digest != digest {
		t.Errorf("current = %s, %v; want %s", got.Digest, err, digest)
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
