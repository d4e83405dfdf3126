package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// vsockListener is a vsock socket that listens. Package net has none.
type vsockListener struct {
	file *os.File
	raw  syscall.RawConn
	port uint32
	host uint32 // the one context id that may connect
}

// Vsock listens on a vsock port for connections of the host. Others, such as a program
// of the guest's own over the loopback transport, are closed as they come.
func Vsock(port uint32) (net.Listener, error) {
	return listenVsock(port, unix.VMADDR_CID_HOST)
}

func listenVsock(port, host uint32) (*vsockListener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a vsock socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "vsock") // nonblocking, so Go's poller takes it
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	raw, rawErr := file.SyscallConn()
	if err == nil {
		err = rawErr
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	return &vsockListener{file: file, raw: raw, port: port, host: host}, nil
}

// Accept returns the next connection of the host.
func (l *vsockListener) Accept() (net.Conn, error) {
	for {
		fd, peer, err := l.accept()
		if err != nil {
			return nil, err
		}
		vm, ok := peer.(*unix.SockaddrVM)
		if !ok || vm.CID != l.host {
			_ = unix.Close(fd)
			continue
		}
		remote := address{TransportVsock, strconv.FormatUint(uint64(vm.CID), 10) + ":" + strconv.FormatUint(uint64(vm.Port), 10)}
		return &vsockConn{File: os.NewFile(uintptr(fd), "vsock"), local: l.Addr(), remote: remote}, nil
	}
}

func (l *vsockListener) accept() (fd int, peer unix.Sockaddr, err error) {
	rawErr := l.raw.Read(func(listener uintptr) bool {
		for {
			fd, peer, err = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != unix.EINTR && err != unix.ECONNABORTED {
				return err != unix.EAGAIN
			}
		}
	})
	if rawErr != nil {
		return 0, nil, net.ErrClosed
	}
	return fd, peer, err
}

// Close stops listening. Connections stay open.
func (l *vsockListener) Close() error { return l.file.Close() }

// Addr names the port.
func (l *vsockListener) Addr() net.Addr {
	return address{TransportVsock, strconv.FormatUint(uint64(l.port), 10)}
}

// vsockConn is a vsock connection: for reading, writing and deadlines a socket is a file.
type vsockConn struct {
	*os.File
	local, remote net.Addr
}

// Read implements net.Conn.
func (c *vsockConn) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	return n, c.netError("read", err)
}

// Write implements net.Conn.
func (c *vsockConn) Write(p []byte) (int, error) {
	n, err := c.File.Write(p)
	return n, c.netError("write", err)
}

// netError makes a file's error one of net.Error. Package net/http takes a passed deadline, with which it interrupts a
// read of its own, for the loss of the connection otherwise, and cancels the request.
func (c *vsockConn) netError(op string, err error) error {
	var path *os.PathError
	if !errors.As(err, &path) {
		return err // nil and io.EOF
	}
	return &net.OpError{Op: op, Net: TransportVsock, Source: c.local, Addr: c.remote, Err: path.Err}
}

func (c *vsockConn) LocalAddr() net.Addr  { return c.local }
func (c *vsockConn) RemoteAddr() net.Addr { return c.remote }

// CloseWrite tells the peer that no more comes.
func (c *vsockConn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var shutdownErr error
	if err := raw.Control(func(fd uintptr) { shutdownErr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return shutdownErr
}
