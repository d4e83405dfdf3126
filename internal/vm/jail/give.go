package jail

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Give makes a file owner's, to be read and written by nobody else but root. A symbolic link is not followed.
func Give(path string, owner uint32) error {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("give a file away: %w", err)
	}
	if err := errors.Join(f.Chown(int(owner), int(owner)), f.Chmod(0o600), f.Close()); err != nil {
		return fmt.Errorf("give %s away: %w", path, err)
	}
	return nil
}

// Show lets everybody read a file, and nobody write to it, who gets to it: it is bound into jails, and lies where nobody but root can go otherwise.
func Show(path string) error {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("show a file: %w", err)
	}
	if err := errors.Join(f.Chmod(0o444), f.Close()); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	return nil
}
