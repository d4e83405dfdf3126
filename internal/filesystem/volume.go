package filesystem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// ErrNoVolume means that this machine cannot have a reflink volume: no loop devices, no
// mkfs.xfs, no XFS in the kernel, no right to mount. The error's text says which. The caller
// goes on without one. It never means that a volume with data on it is out of reach.
var ErrNoVolume = errors.New("a reflink volume is not available")

// Names in the folder that EnsureReflinkVolume is given.
const (
	volumeImage = "volume.xfs"
	volumeMount = "volume"
	volumeLock  = "volume.lock"
)

// VolumeConfig says what a new volume is like. It does not change one that exists.
type VolumeConfig struct {
	// SizeGiB is how large the volume may grow; it takes only what is written to it. 0 means four
	// fifths of what is free. More than is free is refused: a volume whose own disk fills up
	// fails under all sandboxes at once.
	SizeGiB int
	Logger  *slog.Logger // nil: slog.Default()
}

// Volume is a place with reflinks.
type Volume struct {
	Dir      string // put here what is to be cloned, and the clones
	Native   bool   // the file system of the folder given has reflinks itself; nothing was mounted
	Device   string // the loop device, empty when Native
	DirectIO bool   // the loop device goes past the page cache of the disk beneath

	base string // the folder given
}

// EnsureReflinkVolume returns a place with reflinks for the data in dir, which must exist:
// dir itself where its file system has them; else dir/volume, on which an XFS file
// system in the sparse file dir/volume.xfs is mounted by way of a loop device. The file is
// made once; a later call mounts it again, replaying its log after a crash, or finds it
// mounted. A mount outlives the process, because sandboxes do; Unmount ends it.
//
// Where a volume cannot be made the error is ErrNoVolume. A volume that exists and cannot
// be mounted is a Precondition error that says what to do; its data is left untouched.
func EnsureReflinkVolume(ctx context.Context, dir string, cfg VolumeConfig) (*Volume, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	v, err := volumeIn(dir)
	if err != nil {
		return nil, err
	}
	unlock, err := lockVolume(v.base)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(v.ensure(ctx, cfg), unlock()); err != nil {
		return nil, err
	}
	return v, nil
}

// UnmountVolume is Unmount for the volume that an earlier process mounted in dir, if any.
func UnmountVolume(ctx context.Context, dir string) error {
	v, err := volumeIn(dir)
	if err != nil {
		return err
	}
	return v.Unmount(ctx)
}

// VolumeExists reports whether an earlier EnsureReflinkVolume made a volume in dir.
func VolumeExists(dir string) bool { return (&Volume{base: dir}).imageExists() }

func volumeIn(dir string) (*Volume, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	return &Volume{Dir: filepath.Join(dir, volumeMount), base: dir}, err
}

func (v *Volume) ensure(ctx context.Context, cfg VolumeConfig) error {
	if v.imageExists() {
		return v.ensureMounted(ctx, cfg.Logger)
	}
	native, err := HasReflinks(v.base)
	if err != nil {
		return err
	}
	if native {
		v.Dir, v.Native = v.base, true
		return nil
	}
	return v.make(ctx, cfg)
}

// FreeMiB is what can really be written: no more than the volume has free, nor than the
// disk beneath it has.
func (v *Volume) FreeMiB() (int64, error) {
	free := int64(1) << 62
	for _, dir := range []string{v.Dir, cmp.Or(v.base, v.Dir)} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return 0, fmt.Errorf("statfs %s: %w", dir, err)
		}
		free = min(free, blocksMiB(st.Bavail, st.Bsize))
	}
	return free, nil
}

// Unmount writes everything out, unmounts the volume and frees its loop device. While
// something still uses the volume it tries again until ctx ends, at most unmountLimit. It succeeds when
// the volume is not mounted, and does nothing to a Native one.
func (v *Volume) Unmount(ctx context.Context) error {
	if v.Native {
		return nil
	}
	device, err := mountedLoop(v.Dir)
	if err != nil || device == "" {
		return err
	}
	free, cancel := context.WithTimeout(ctx, unmountLimit)
	defer cancel()
	err = retry(free, func() (bool, error) {
		err := unix.Unmount(v.Dir, unix.UMOUNT_NOFOLLOW)
		return err != unix.EBUSY, err
	})
	if err != nil {
		return fmt.Errorf("unmount %s: %w", v.Dir, err)
	}
	ctx, cancel = context.WithTimeout(ctx, detachLimit)
	defer cancel()
	return awaitDetached(ctx, device, v.image())
}

// unmountLimit bounds the wait for those who still have a file open, and detachLimit that for the kernel, which writes out what it still has: on a slow disk that takes a while.
const unmountLimit, detachLimit = 10 * time.Second, 2 * time.Minute

func (v *Volume) image() string { return filepath.Join(v.base, volumeImage) }

func (v *Volume) imageExists() bool {
	_, err := os.Lstat(v.image())
	return !errors.Is(err, fs.ErrNotExist)
}

// make makes the image and mounts it; if it cannot be mounted, the image goes again.
func (v *Volume) make(ctx context.Context, cfg VolumeConfig) error {
	if err := v.format(ctx, cfg.SizeGiB); err != nil {
		return err
	}
	err := v.ensureMounted(ctx, cfg.Logger)
	if err == nil {
		return nil
	}
	return noVolume(errors.Join(err, os.Remove(v.image())))
}

// ensureMounted leaves the image mounted on v.Dir, and fills in what is known only then.
func (v *Volume) ensureMounted(ctx context.Context, log *slog.Logger) (err error) {
	if v.Device, err = mountedLoop(v.Dir); err != nil {
		return err
	}
	if v.Device != "" {
		if v.inspect() == nil {
			return nil
		}
		if err := v.evict(ctx); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(v.Dir, 0o700); err != nil {
		return err
	}
	if err := v.mount(ctx); err != nil {
		return err
	}
	log.InfoContext(ctx, "mounted the reflink volume", "image", v.image(), "dir", v.Dir)
	if v.Device, err = mountedLoop(v.Dir); err != nil {
		return err
	}
	return v.inspect()
}

// inspect makes sure that what is mounted is the volume, nothing else, and works.
func (v *Volume) inspect() error {
	status, err := loopStatus(v.Device)
	if err != nil {
		return err
	}
	if !status.backs(v.image()) {
		return foreignMount(v.Dir)
	}
	v.DirectIO = status.directIO()
	_, err = os.Stat(v.Dir)
	return err
}

// evict unmounts a volume that is mounted and does not work, so that mounting it again repairs
// it. XFS shuts itself down like that when the disk beneath it is full or fails.
func (v *Volume) evict(ctx context.Context) error {
	err := v.inspect()
	if models.CodeOf(err) == models.Precondition {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if unmountErr := v.Unmount(ctx); unmountErr != nil {
		return models.Errorf(models.Precondition, "the disk volume on %s has failed, and sandboxes still use it", v.Dir).
			WithHint("end this host's sandboxes, see to the disk beneath, and start again").
			WithCause(errors.Join(err, unmountErr))
	}
	return nil
}

func (v *Volume) mount(ctx context.Context) error {
	device, err := attachLoop(ctx, v.image())
	if err != nil {
		return models.Errorf(models.Precondition, "the disk volume %s cannot be attached", v.image()).WithCause(err).
			WithHint("it holds this host's sandboxes and needs a loop device: in a container, allow %s and /dev/loop*", loopControl)
	}
	defer device.Close() // from here on the mount keeps the loop device, or nothing does
	// No access times: they would be a write for every read of a template. No discard: see KeepTrimmed.
	err = unix.Mount(device.Name(), v.Dir, "xfs", unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID, "")
	if err != nil {
		return v.mountError(err)
	}
	return nil
}

func (v *Volume) mountError(err error) error {
	coded := models.Errorf(models.Precondition, "the disk volume %s cannot be mounted", v.image()).WithCause(err)
	switch {
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EIO):
		return coded.WithHint("it may be damaged, or mounted elsewhere; check it with `xfs_repair -n %[1]s`. "+
			"Nothing was changed; to begin anew without its sandboxes, move the file away", v.image())
	case errors.Is(err, unix.ENODEV):
		return coded.WithHint("this kernel has no XFS")
	}
	return coded.WithHint("wrenn must be allowed to mount: run it as root")
}

// noVolume turns the failure to make a volume, where there was none, into ErrNoVolume.
func noVolume(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoVolume, err)
}

// RemoveEmptyVolume removes the volume that EnsureReflinkVolume made in dir, unless a file is on it: then it reports that,
// and leaves the volume mounted. Where there is none, it removes what an attempt to make one has left.
func RemoveEmptyVolume(ctx context.Context, dir string) (held bool, err error) {
	lock := filepath.Join(dir, volumeLock)
	if !VolumeExists(dir) {
		if err = os.Remove(lock); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	v, err := EnsureReflinkVolume(ctx, dir, VolumeConfig{}) // what is on it can be seen only while it is mounted
	if err != nil {
		return false, err
	}
	if held, err = holdsFiles(v.Dir); held || err != nil {
		return held, err
	}
	if err := v.Unmount(ctx); err != nil {
		return false, err
	}
	err = errors.Join(durable.RemoveAll(v.image()), os.Remove(v.Dir), os.Remove(lock))
	return false, err
}

// holdsFiles reports whether anything but folders lies below dir.
func holdsFiles(dir string) (bool, error) {
	errFound := errors.New("found")
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			return errFound
		}
		return err
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}
