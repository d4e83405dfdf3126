package filesystem_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
)

// The disk of a usual template: 1 GiB, of which 170 MiB are data.
const benchSize, benchData = 1024, 170

// BenchmarkClone times one clone, with the disk grown to twice its size; removing it is not counted.
func BenchmarkClone(b *testing.B) {
	onBothPlaces(b, func(b *testing.B, dir string) {
		store, template := benchStore(b, dir)
		clone := filepath.Join(dir, "clone")
		for b.Loop() {
			mustClone(b, store, template, clone)
			b.StopTimer()
			remove(b, clone)
			b.StartTimer()
		}
	})
}

// BenchmarkRemoveClone times the removal of a clone of which the guest has written 16 MiB.
func BenchmarkRemoveClone(b *testing.B) {
	onBothPlaces(b, func(b *testing.B, dir string) {
		store, template := benchStore(b, dir)
		clone := filepath.Join(dir, "clone")
		for b.Loop() {
			b.StopTimer()
			mustClone(b, store, template, clone)
			writeRandom(b, clone, 16)
			b.StartTimer()
			remove(b, clone)
		}
	})
}

// BenchmarkImport times bringing in an image, syncing included.
func BenchmarkImport(b *testing.B) {
	onBothPlaces(b, func(b *testing.B, dir string) {
		source := benchImage(b)
		for b.Loop() {
			store := benchOpen(b, dir)
			if _, err := store.Import(b.Context(), source); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			remove(b, filepath.Join(dir, "images"))
			b.StartTimer()
		}
	})
}

// BenchmarkCloneOfUnsyncedImage shows what Import's sync spares the first clone.
func BenchmarkCloneOfUnsyncedImage(b *testing.B) {
	dir := benchVolume(b)
	store := benchOpen(b, dir)
	template := filesystem.Template{Rootfs: filepath.Join(dir, "dirty")}
	template.DiskMiB = benchSize
	for b.Loop() {
		b.StopTimer()
		writeRandom(b, template.Rootfs, benchData)
		b.StartTimer()
		mustClone(b, store, template, filepath.Join(dir, "clone"))
		b.StopTimer()
		remove(b, filepath.Join(dir, "clone"))
		b.StartTimer()
	}
}

func onBothPlaces(b *testing.B, bench func(b *testing.B, dir string)) {
	b.Run("volume", func(b *testing.B) { bench(b, benchVolume(b)) })
	b.Run("plain", func(b *testing.B) { bench(b, b.TempDir()) })
}

func benchVolume(b *testing.B) string {
	volume, err := filesystem.EnsureReflinkVolume(b.Context(), b.TempDir(), filesystem.VolumeConfig{SizeGiB: 4, Logger: textLog(new(bytes.Buffer))})
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() {
		if err := volume.Unmount(context.WithoutCancel(b.Context())); err != nil {
			b.Error(err)
		}
	})
	return volume.Dir
}

func benchOpen(b *testing.B, dir string) *filesystem.Store {
	store, err := filesystem.Open(b.Context(), filesystem.Config{Dir: dir, Logger: textLog(new(bytes.Buffer))})
	if err != nil {
		b.Fatal(err)
	}
	return store
}

func benchStore(b *testing.B, dir string) (*filesystem.Store, filesystem.Template) {
	store := benchOpen(b, dir)
	template, err := store.Import(b.Context(), benchImage(b))
	if err != nil {
		b.Fatal(err)
	}
	return store, template
}

func benchImage(b *testing.B) string {
	dir := b.TempDir()
	rootfs := filepath.Join(dir, filesystem.RootfsName)
	writeRandom(b, rootfs, benchData)
	if err := os.Truncate(rootfs, benchSize*mib); err != nil {
		b.Fatal(err)
	}
	writeManifest(b, dir, filesystem.Manifest{Name: "bench", Digest: digestA, DiskMiB: benchSize})
	return dir
}

// writeRandom writes size runs of 1 MiB, spread over a file.
func writeRandom(b *testing.B, path string, size int) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, mib)
	for i := range size {
		rand.Read(block)
		if _, err := f.WriteAt(block, int64(i)*6*mib); err != nil {
			b.Fatal(err)
		}
	}
}

func mustClone(b *testing.B, store *filesystem.Store, template filesystem.Template, clone string) {
	if _, err := store.Clone(b.Context(), template, clone, 2*benchSize); err != nil {
		b.Fatal(err)
	}
}

func remove(b *testing.B, path string) {
	if err := os.RemoveAll(path); err != nil {
		b.Fatal(err)
	}
}
