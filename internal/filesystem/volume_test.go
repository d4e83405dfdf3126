package filesystem_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func TestVolumeIsMadeOnceAndFoundAgain(t *testing.T) {
	first, dir := madeVolume(t)
	t.Logf("%s, direct I/O %v", first.Device, first.DirectIO)
	path := filepath.Join(first.Dir, "kept")
	if err := durable.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := ensureVolume(t, dir); again.Device != first.Device {
		t.Errorf("mounted twice: %s and %s", first.Device, again.Device)
	}
	for range 2 { // the second time there is nothing to unmount
		if err := filesystem.UnmountVolume(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	wantFree(t, dir)
	wantNames(t, first.Dir)
	ensureVolume(t, dir)
	stat(t, path)
	wantNames(t, dir, "volume", "volume.lock", "volume.xfs")
}

// TestRemoveEmptyVolume: a volume with folders alone goes without a trace, one with a file stays as it is, mounted.
func TestRemoveEmptyVolume(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	if _, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{SizeGiB: 1 << 20}); err == nil {
		testlane.Missing(t, "the folder for temporary files has reflinks itself: no volume is made")
	}
	for range 2 { // after an attempt, and without anything
		if held, err := filesystem.RemoveEmptyVolume(t.Context(), dir); held || err != nil {
			t.Errorf("without a volume: %v, %v", held, err)
		}
		wantNames(t, dir)
	}
	volume := ensureVolume(t, dir)
	path := filepath.Join(volume.Dir, "images", "kept")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if held, err := filesystem.RemoveEmptyVolume(t.Context(), dir); !held || err != nil {
		t.Errorf("with a file: %v, %v", held, err)
	}
	if err := errors.Join(os.Remove(path), filesystem.UnmountVolume(t.Context(), dir)); err != nil { // it need not be mounted
		t.Error(err)
	}
	if held, err := filesystem.RemoveEmptyVolume(t.Context(), dir); held || err != nil {
		t.Errorf("with a folder: %v, %v", held, err)
	}
	wantNames(t, dir)
	wantFree(t, dir)
}

func TestFolderWithReflinksNeedsNoVolume(t *testing.T) {
	outer := newVolume(t)
	inner, err := filesystem.EnsureReflinkVolume(t.Context(), outer.Dir, filesystem.VolumeConfig{})
	if err != nil || !inner.Native || inner.Dir != outer.Dir {
		t.Errorf("volume = %+v, %v; want the folder itself", inner, err)
	}
}

// xfsGoingDown is XFS_IOC_GOINGDOWN with XFS_FSOP_GOING_FLAGS_NOLOGFLUSH (fs/xfs/libxfs/xfs_fs.h):
// from this moment nothing more reaches the disk, as in a power cut.
const xfsGoingDown, noLogFlush = 0x8004587d, 2

// Each of these is followed by a power cut, so that no later sync does its work for it.
func TestPowerCutLosesNothingDurable(t *testing.T) {
	testlane.NeedRoot(t)
	source := image(t, "python311", digestA, 16)
	for what, test := range map[string]struct {
		change func(dir string) error
		check  func(t *testing.T, dir string)
	}{
		"WriteFile": {
			func(dir string) error { return durable.WriteFile(filepath.Join(dir, "record"), []byte("after"), 0o600) },
			func(t *testing.T, dir string) { wantContent(t, filepath.Join(dir, "record"), "after") },
		},
		"RemoveAll": {
			func(dir string) error { return durable.RemoveAll(filepath.Join(dir, "record")) },
			func(t *testing.T, dir string) { wantNames(t, dir) },
		},
		"Import": {
			func(dir string) error {
				store, err := filesystem.Open(t.Context(), filesystem.Config{Dir: dir})
				if err == nil {
					_, err = store.Import(t.Context(), source)
				}
				return err
			},
			func(t *testing.T, dir string) {
				template, err := openStore(t, dir, nil).Template("python311")
				if err != nil {
					t.Fatal(err)
				}
				wantSame(t, template.Rootfs, filepath.Join(source, filesystem.RootfsName))
			},
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			volume := ensureVolume(t, dir)
			if err := durable.WriteFile(filepath.Join(volume.Dir, "record"), []byte("before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := test.change(volume.Dir); err != nil {
				t.Fatal(err)
			}
			unsynced := filepath.Join(volume.Dir, "unsynced")
			if err := os.WriteFile(unsynced, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			cutPower(t, volume.Dir)
			ensureVolume(t, dir) // finds it mounted, dead and unused
			if _, err := os.Stat(unsynced); err == nil {
				t.Error("what was not synced survived: this was no power cut and shows nothing")
			}
			test.check(t, volume.Dir)
		})
	}
}

func TestFailedVolumeInUse(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	volume := ensureVolume(t, dir)
	path := filepath.Join(volume.Dir, "disk")
	if err := durable.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	cutPower(t, volume.Dir)
	_, err = filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{})
	wantCode(t, err, models.Precondition, "still use it")
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
	ensureVolume(t, dir)
	wantContent(t, path, "x")
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func cutPower(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), xfsGoingDown, noLogFlush); err != nil {
		t.Fatalf("shut down the file system: %v", err)
	}
}

func TestDamagedVolumeIsLeftAlone(t *testing.T) {
	volume, dir := madeVolume(t)
	if err := volume.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "volume.xfs")
	overwrite(t, path, "this was the superblock")
	before := sum(t, path)
	for range 2 {
		_, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{})
		wantCode(t, err, models.Precondition, "xfs_repair")
		if errors.Is(err, filesystem.ErrNoVolume) {
			t.Error("a volume with data on it is reported as not to be had: the caller would go on without it")
		}
	}
	if sum(t, path) != before {
		t.Error("the damaged volume was written to")
	}
	wantFree(t, dir)
}

func TestForeignMountInTheVolumesPlace(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	volume := ensureVolume(t, dir)
	if err := volume.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := newVolume(t)
	if err := unix.Mount(other.Dir, volume.Dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	_, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{})
	wantCode(t, err, models.Precondition, "something else")
	if err := unix.Unmount(volume.Dir, 0); err != nil {
		t.Error(err)
	}
}

func TestVolumeNotToBeHad(t *testing.T) {
	testlane.NeedRoot(t)
	t.Run("no mkfs.xfs", func(t *testing.T) {
		dir := tmpfs(t, "2g")
		t.Setenv("PATH", t.TempDir())
		_, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{SizeGiB: 1})
		wantNoVolume(t, dir, err, "xfsprogs")
	})
	t.Run("no loop devices", func(t *testing.T) {
		dir := tmpfs(t, "2g")
		var err error
		inEmptyDev(t, func() {
			_, err = filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{SizeGiB: 1})
		})
		wantNoVolume(t, dir, err, "loop-control")
	})
	t.Run("no room", func(t *testing.T) {
		dir := tmpfs(t, "2g")
		_, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{SizeGiB: 3})
		wantCode(t, err, models.Exhausted, "2 GiB free")
		wantNames(t, dir, "volume.lock")
	})
}

func wantNoVolume(t *testing.T, dir string, err error, mention string) {
	t.Helper()
	if !errors.Is(err, filesystem.ErrNoVolume) || !strings.Contains(err.Error(), mention) {
		t.Errorf("error = %v, want ErrNoVolume with %q", err, mention)
	}
	wantNames(t, dir, "volume.lock")
}

// inEmptyDev calls f on a thread whose /dev is empty. The thread ends with it.
func inEmptyDev(t *testing.T, f func()) {
	t.Helper()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("tmpfs", "/dev", "tmpfs", 0, "size=4k")
		}
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		testlane.Missing(t, "cannot hide /dev: "+err.Error())
	}
}

// wantFree checks that no loop device holds a file in dir.
func wantFree(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if held, err := os.ReadFile(file); err == nil && bytes.HasPrefix(held, []byte(dir+"/")) {
			t.Errorf("%s still holds %s", file, held)
		}
	}
}

func sum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, 64*mib)); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
