package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// errForeign is of a socket that another process than the VMM listens on.
var errForeign = errors.New("another process listens there")

// Dial connects to the unix socket name in dir, on which the process itself must listen. A VMM that was taken over may own dir, and put a symbolic link in
// the socket's place, or a socket that is not its own: no link is followed, nothing but a socket is opened, and to who else listens there nothing is
// sent. dir may be longer than a unix socket's path.
func (p *Process) Dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
	conn, err := dial(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	if err := p.listensOn(conn); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s/%s: %w", dir, name, err), conn.Close())
	}
	return conn, nil
}

// listensOn asks the kernel who called listen(2) for the other end: unix(7), SO_PEERCRED.
func (p *Process) listensOn(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var errPeer error
	if err := raw.Control(func(fd uintptr) {
		peer, errPeer = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if errPeer != nil {
		return fmt.Errorf("ask who listens: %w", errPeer)
	}
	if int(peer.Pid) != p.identity.PID {
		return fmt.Errorf("%w: %d, not VMM %d", errForeign, peer.Pid, p.identity.PID)
	}
	return nil
}

func dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
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
