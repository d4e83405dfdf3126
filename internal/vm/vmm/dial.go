package vmm

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Dial connects to the unix socket name in dir. A VMM that was taken over may own dir, and put a symbolic link in the socket's place, or a socket's
// that is not its own: no link is followed, and nothing but a socket is opened. dir may be longer than a unix socket's path.
func Dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
	folder, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir, name, err)
	}
	defer unix.Close(folder)
	socket, err := unix.Openat(folder, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir, name, err)
	}
	defer unix.Close(socket)
	var stat unix.Stat_t
	if err := unix.Fstat(socket, &stat); err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir, name, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir, name, os.ErrInvalid)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", socket))
	if err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir, name, err)
	}
	return conn.(*net.UnixConn), nil
}
