package listen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// PortName is the name of envd's virtio-serial port, which the host gives it.
const PortName = "wrenn.envd"

// portClass lists the virtio-serial ports, each a folder with a file "name". The node of
// the same name is in /dev.
const portClass = "/sys/class/virtio-ports"

// The driver adds ports while the system boots, so that one may not be there yet.
const (
	firstPortDelay = time.Millisecond
	lastPortDelay  = 250 * time.Millisecond
)

// serialPort is an open virtio-serial port. Its reads block while no host is connected.
// One goroutine reads at a time.
type serialPort struct {
	*os.File
	raw syscall.RawConn

	// What readOnce reads into, and what came of it: fields, because a closure for each
	// read would be garbage.
	buf  []byte
	n    int
	err  error
	once func(fd uintptr) bool
}

// openPort opens the port with the given name, and waits for it until ctx ends.
func openPort(ctx context.Context, name string) (*serialPort, error) {
	delay := firstPortDelay
	for {
		node, err := findPort(portClass, name)
		if err == nil {
			return openNode(filepath.Join("/dev", node))
		}
		select {
		case <-time.After(delay):
			delay = min(2*delay, lastPortDelay)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a virtio-serial port %s: %w", name, err)
		}
	}
}

// findPort returns the folder in class whose file "name" holds name.
func findPort(class, name string) (string, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(class, entry.Name(), "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return entry.Name(), nil
		}
	}
	return "", fmt.Errorf("no port %s among the %d in %s", name, len(entries), class)
}

// openNode opens a port without blocking mode, which hands it to Go's poller.
func openNode(path string) (*serialPort, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	port := &serialPort{File: file, raw: raw}
	port.once = port.readOnce
	return port, nil
}

// Read reads what is there, or waits. A port without a host reads as empty at once and
// polls as hung up for ever, and the driver tells the poller of the next host like of
// the next byte. Go's poller is edge-triggered: to take "empty" for "not yet" therefore
// sleeps until something changes, and costs nothing meanwhile.
func (p *serialPort) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	p.buf = b
	err := p.raw.Read(p.once)
	p.buf = nil
	if err == nil {
		err = p.err
	}
	if err != nil {
		return 0, err
	}
	return p.n, nil
}

// readOnce reports whether the read is over; false makes RawConn wait for the poller.
func (p *serialPort) readOnce(fd uintptr) bool {
	for {
		p.n, p.err = unix.Read(int(fd), p.buf)
		if !errors.Is(p.err, unix.EINTR) {
			break
		}
	}
	return !errors.Is(p.err, unix.EAGAIN) && (p.err != nil || p.n > 0)
}
