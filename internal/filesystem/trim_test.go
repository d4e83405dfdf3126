package filesystem_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKeepTrimmed: the disk beneath gets back what was removed from the volume, and nothing of what is there.
func TestKeepTrimmed(t *testing.T) {
	volume, dir := madeVolume(t)
	image := filepath.Join(dir, "volume.xfs")
	held := func() int64 { return stat(t, image).Sys().(*syscall.Stat_t).Blocks / 2048 } // MiB
	fill := func(name string, mib int) {
		t.Helper()
		data := make([]byte, mib<<20)
		for i := range data {
			data[i] = byte(i>>12) | 1
		}
		f, err := os.Create(filepath.Join(volume.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	fill("kept", 20)
	before := held()
	fill("doomed", 300)
	if held() < before+300 {
		t.Fatalf("the volume holds %d MiB with 300 MiB more than at %d", held(), before)
	}
	if err := os.Remove(filepath.Join(volume.Dir, "doomed")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(volume.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	f.Close()
	kept, err := os.ReadFile(filepath.Join(volume.Dir, "kept"))
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var keeper sync.WaitGroup
	keeper.Go(func() { volume.KeepTrimmed(ctx, slog.New(slog.DiscardHandler)) })
	for end := time.Now().Add(time.Minute); held() > before+20; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the volume still holds %d MiB, before it held %d", held(), before)
		}
	}
	cancel()
	keeper.Wait()
	if err := volume.Unmount(t.Context()); err != nil { // what is cached would hide what is lost
		t.Fatal(err)
	}
	ensureVolume(t, dir)
	if now, err := os.ReadFile(filepath.Join(volume.Dir, "kept")); err != nil || string(now) != string(kept) {
		t.Errorf("what was kept has changed: %v", err)
	}
}
