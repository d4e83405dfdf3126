package vmm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenOutput returns the two ends of the named pipe at path, which it makes where it is missing: what a VMM writes to
// writer arrives at reader. A restarted agent opens it again and reads on.
//
// The writer's end is non-blocking and counts as a reader too: with no agent there, or one that does not read, a VMM
// neither hangs nor dies of SIGPIPE; what does not fit the pipe's 64 KiB is lost. The caller gives writer to Spawn and
// closes its own copy; reader then ends with io.EOF when the VMM does.
func OpenOutput(path string) (reader, writer *os.File, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, nil, fmt.Errorf("make pipe %s: %w", path, err)
	}
	reader, err = openPipe(path, unix.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	writer, err = openPipe(path, unix.O_RDWR)
	if err != nil {
		reader.Close()
		return nil, nil, err
	}
	return reader, writer, nil
}

// openPipe opens without blocking, and in such a way that os.StartProcess leaves the descriptor non-blocking.
func openPipe(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
