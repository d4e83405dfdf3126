package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// loopControl hands out loop devices: loop(4).
const loopControl = "/dev/loop-control"

// attachLoop returns a loop device of image. The kernel frees the device when nothing has
// it open or mounted any more.
func attachLoop(ctx context.Context, image string) (*os.File, error) {
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("no loop devices here: %w", err)
	}
	defer control.Close()
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	var device *os.File
	err = retry(ctx, func() (bool, error) {
		device, err = attachFree(control, backing)
		return !errors.Is(err, unix.EBUSY), err // EBUSY: someone else took the free one first
	})
	return device, err
}

// attachFree attaches backing to the first loop device that is free at this moment.
func attachFree(control, backing *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	err = configureLoop(device, backing, unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_DIRECT_IO)
	if errors.Is(err, unix.EINVAL) { // the file system beneath has no direct I/O
		err = configureLoop(device, backing, unix.LO_FLAGS_AUTOCLEAR)
	}
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return device, nil
}

func configureLoop(device, backing *os.File, flags uint32) error {
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: sectorSize, Info: unix.LoopInfo64{Flags: flags}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], backing.Name())
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return fmt.Errorf("attach %s to %s: %w", backing.Name(), device.Name(), err)
	}
	return nil
}

// loop is what LOOP_GET_STATUS64 tells of a loop device.
type loop unix.LoopInfo64

// loopStatus fails with ENXIO for a device that has no file.
func loopStatus(device string) (loop, error) {
	f, err := os.Open(device)
	if err != nil {
		return loop{}, err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return loop{}, fmt.Errorf("status of %s: %w", device, err)
	}
	return loop(*info), nil
}

func (l loop) directIO() bool { return l.Flags&unix.LO_FLAGS_DIRECT_IO != 0 }

// backs says whether the loop device's file is image, by whatever name.
func (l loop) backs(image string) bool {
	var st unix.Stat_t
	return unix.Stat(image, &st) == nil && l.Device == st.Dev && l.Inode == st.Ino
}

// awaitDetached waits until the kernel has let go of image.
func awaitDetached(ctx context.Context, device, image string) error {
	return retry(ctx, func() (bool, error) {
		status, err := loopStatus(device)
		if errors.Is(err, unix.ENXIO) || err == nil && !status.backs(image) {
			return true, nil
		}
		if err == nil {
			err = fmt.Errorf("%s is still attached to %s", image, device)
		}
		return false, err
	})
}

// retry calls f, with growing pauses, until it says that it is done; when ctx ends first
// the error is f's last one.
func retry(ctx context.Context, f func() (done bool, err error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		done, err := f()
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
	}
}
