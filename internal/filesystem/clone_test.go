package filesystem_test

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Each test of clones runs where there are reflinks and where there are none.
func onBoth(t *testing.T, test func(t *testing.T, dir string, want filesystem.Method)) {
	t.Run("reflink", func(t *testing.T) { test(t, newVolume(t).Dir, filesystem.Reflink) })
	t.Run("sparse", func(t *testing.T) { test(t, tmpfs(t, "256m"), filesystem.SparseCopy) })
}

func TestCloneIsEqualSparseAndIndependent(t *testing.T) {
	onBoth(t, func(t *testing.T, dir string, want filesystem.Method) {
		store := openStore(t, dir, nil)
		template := mustImport(t, store, image(t, "python311", digestA, 64))
		clone := filepath.Join(dir, "clone")
		method, err := store.Clone(t.Context(), template, clone, 0)
		if err != nil || method != want {
			t.Fatalf("clone: %s, %v; want %s", method, err, want)
		}
		wantSame(t, template.Rootfs, clone)
		if kib := stat(t, clone).Sys().(*syscall.Stat_t).Blocks / 2; kib > 17*1024 {
			t.Errorf("the clone of 16 MiB in 64 takes %d KiB", kib)
		}
		overwrite(t, clone, "written by the guest")
		pristine := image(t, "python311", digestA, 64)
		wantSame(t, template.Rootfs, filepath.Join(pristine, filesystem.RootfsName))
	})
}

func TestCloneSizes(t *testing.T) {
	onBoth(t, func(t *testing.T, dir string, _ filesystem.Method) {
		store := openStore(t, dir, nil)
		template := mustImport(t, store, image(t, "python311", digestA, 8))
		for _, size := range []int{8, 9, 4096} {
			clone := filepath.Join(dir, "clone")
			if _, err := store.Clone(t.Context(), template, clone, size); err != nil {
				t.Fatal(err)
			}
			if got := stat(t, clone).Size(); got != int64(size)*mib {
				t.Errorf("size = %d, want %d MiB", got, size)
			}
			if err := os.Remove(clone); err != nil {
				t.Fatal(err)
			}
		}
		_, err := store.Clone(t.Context(), template, filepath.Join(dir, "clone"), 7)
		wantCode(t, err, models.Invalid, "at least 8")
		wantNames(t, dir, "images")
	})
}

func TestCloneRefusesToOverwrite(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir, nil)
	template := mustImport(t, store, image(t, "python311", digestA, 4))
	clone := filepath.Join(dir, "clone")
	if err := os.WriteFile(clone, []byte("someone's disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Clone(t.Context(), template, clone, 0)
	wantCode(t, err, models.Conflict, "exists")
	if got, err := os.ReadFile(clone); err != nil || string(got) != "someone's disk" {
		t.Errorf("now %q, %v", got, err)
	}
}

func TestCloneLeavesNothingAfterAnError(t *testing.T) {
	dir := tmpfs(t, "24m")
	store := openStore(t, dir, nil)
	template := mustImport(t, store, image(t, "python311", digestA, 64)) // 16 MiB of data
	_, err := store.Clone(t.Context(), template, filepath.Join(dir, "clone"), 0)
	wantCode(t, err, models.Exhausted, "full")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Clone(ctx, template, filepath.Join(dir, "clone"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	wantNames(t, dir, "images")
}

// A clone that is cancelled while it copies ends, and takes its file along.
func TestCloneCancelledMidway(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, tmpfs(t, "128m"), nil)
	template := mustImport(t, store, image(t, "python311", digestA, 256))
	ctx := &endsAfter{Context: t.Context(), checks: 5}
	if _, err := store.Clone(ctx, template, filepath.Join(dir, "clone"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	wantNames(t, dir)
}

func TestCloneOfAPrunedTemplate(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir, nil)
	old := mustImport(t, store, image(t, "python311", digestA, 4))
	mustImport(t, store, image(t, "python311", digestB, 4))
	if err := store.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	_, err := store.Clone(t.Context(), old, filepath.Join(dir, "clone"), 0)
	wantCode(t, err, models.Unavailable, "try again")
}

// Whatever the layout of data and holes, and across file systems as within one, a copy is equal.
func TestSparseCopyOfRandomLayouts(t *testing.T) {
	for _, dirs := range [][2]string{{t.TempDir(), t.TempDir()}, {tmpfs(t, "64m"), t.TempDir()}} {
		store := openStore(t, dirs[0], nil)
		for range 20 {
			source := image(t, "random", digestA, 16)
			scatter(t, filepath.Join(source, filesystem.RootfsName), 16*mib)
			template := mustImport(t, store, source)
			clone := filepath.Join(dirs[1], "clone")
			if _, err := store.Clone(t.Context(), template, clone, 0); err != nil {
				t.Fatal(err)
			}
			wantSame(t, clone, filepath.Join(source, filesystem.RootfsName))
			for _, path := range []string{clone, filepath.Dir(template.Rootfs)} {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// scatter gives a file of this size a new, random layout.
func scatter(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range rand.N(40) {
		block := make([]byte, 1+rand.N(100_000))
		crand.Read(block)
		if _, err := f.WriteAt(block, rand.N(size-int64(len(block)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Error(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Error(err)
	}
}

// endsAfter is a context that is cancelled when it has been asked a number of times.
type endsAfter struct {
	context.Context
	checks int
}

func (c *endsAfter) Err() error {
	if c.checks--; c.checks < 0 {
		return context.Canceled
	}
	return nil
}
