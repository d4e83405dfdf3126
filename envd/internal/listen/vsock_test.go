package listen

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A connection's failed deadline is a net.Error: package net/http interrupts its own reads with one.
func TestVsockConnDeadline(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := &vsockConn{File: os.NewFile(uintptr(fds[0]), "vsock"), local: address{TransportVsock, "1"}, remote: address{TransportVsock, "2:3"}}
	other := os.NewFile(uintptr(fds[1]), "other")
	t.Cleanup(func() { _, _ = conn.Close(), other.Close() })
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %#v", err)
	}
	if _, ok := err.(net.Error); !ok { // as net/http asks
		t.Errorf("%T is no net.Error, so net/http takes it for a lost connection", err)
	}
}
