package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
	"github.com/wrenn-sandbox/wrenn/proto/channel"
)

// portName is the name of the virtio-serial port that envd answers on.
const portName = "wrenn.envd"

// serveSerial serves one session of the host after another.
func serveSerial(app guestapp.App) error {
	port, err := openPort()
	if err != nil {
		return err
	}
	listeners := map[uint32]*streams{}
	for _, number := range guestapp.Ports() {
		listener := newStreams()
		listeners[number] = listener
		go func() { fmt.Fprintln(os.Stderr, "guest:", app.Serve(listener, number)) }()
	}
	guest := channel.NewGuest(port)
	for {
		session, err := guest.Accept(context.Background())
		if err != nil {
			return err
		}
		go serveSession(session, listeners)
	}
}

func serveSession(session *channel.Session, listeners map[uint32]*streams) {
	mux, err := channel.Server(session)
	if err != nil {
		session.Close()
		return
	}
	defer mux.Close()
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return
		}
		go handOver(stream, listeners)
	}
}

// handOver gives a stream to whoever listens on the port that the host asks for.
func handOver(stream *yamux.Stream, listeners map[uint32]*streams) {
	port, err := channel.ReadConnect(stream, time.Minute)
	if err != nil {
		stream.Close()
		return
	}
	listener := listeners[port]
	if listener == nil {
		_ = channel.Refuse(stream, "nobody listens there")
		stream.Close()
		return
	}
	if channel.Grant(stream, port) != nil {
		stream.Close()
		return
	}
	listener.accepted <- stream
}

// streams is a net.Listener fed by the sessions.
type streams struct{ accepted chan net.Conn }

func newStreams() *streams { return &streams{accepted: make(chan net.Conn)} }

// Accept returns the next stream.
func (s *streams) Accept() (net.Conn, error) { return <-s.accepted, nil }

// Close does nothing: the guest serves until its machine ends.
func (s *streams) Close() error { return nil }

// Addr returns an empty address.
func (s *streams) Addr() net.Addr { return &net.UnixAddr{} }

// port is a virtio-serial port. While no host is connected its driver lets read(2) return 0, and poll(2) say that it
// hung up: to read again then would be a busy loop. Saying instead that nothing could be read makes the
// runtime's poller, which is edge-triggered, sleep until the driver signals a change.
type port struct {
	*os.File
	raw syscall.RawConn
}

func openPort() (*port, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(name)) == portName {
			return openDevice("/dev/" + filepath.Base(filepath.Dir(file)))
		}
	}
	return nil, fmt.Errorf("no virtio-serial port is called %s", portName)
}

func openDevice(path string) (*port, error) {
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &port{File: file, raw: raw}, nil
}

// Read blocks while there is nothing to read, be a host connected or not.
func (p *port) Read(b []byte) (n int, err error) {
	waitErr := p.raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), b)
		return n > 0 || err != nil && err != syscall.EAGAIN
	})
	if waitErr != nil {
		return 0, waitErr
	}
	if n < 0 {
		return 0, fmt.Errorf("read %s: %w", p.Name(), err)
	}
	return n, nil
}

var _ io.Reader = (*port)(nil)
