package boot

import (
	"errors"
	"fmt"
	"os"
)

// deviceLinks are the links that programs expect in /dev and devtmpfs does not make.
var deviceLinks = map[string]string{
	"/dev/fd":     "/proc/self/fd",
	"/dev/stdin":  "/proc/self/fd/0",
	"/dev/stdout": "/proc/self/fd/1",
	"/dev/stderr": "/proc/self/fd/2",
}

// openDevices are nodes that every user may open, as udev has it, and devtmpfs makes for
// root alone. What one can do with them is checked when it is done.
var openDevices = []string{"/dev/ptmx", "/dev/fuse", "/dev/net/tun"}

// linkDevices completes /dev.
func linkDevices() error {
	var failed []error
	for link, target := range deviceLinks {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			failed = append(failed, err)
		}
	}
	for _, path := range openDevices {
		if err := os.Chmod(path, 0o666); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, fmt.Errorf("open %s to all: %w", path, err))
		}
	}
	return errors.Join(failed...)
}
