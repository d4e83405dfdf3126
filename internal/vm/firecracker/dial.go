package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// attemptLimit bounds one attempt to connect to the guest. An attempt made before the guest's driver is up waits
// in the socket's queue until it is, so attempts are few; one made later is answered, or ended, within the 2 s that Firecracker
// gives the guest (CONN_REQUEST_TIMEOUT_MS of its src/vmm/src/devices/virtio/vsock/csm/mod.rs).
const attemptLimit = 10 * time.Second

// maxAnswer is longer than any answer: "OK ", ten digits, and a line feed.
const maxAnswer = 32

// Dial connects to a port of the guest through the vsock device. It tries until the guest listens.
func (v *VM) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := v.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("dial port %d: %w", port, err)
	}
	return conn, nil
}

func (v *VM) dial(ctx context.Context, port uint32) (net.Conn, error) {
	for b := newBackoff(); ; {
		conn, err := v.attempt(ctx, port)
		if err == nil {
			return conn, nil
		}
		select {
		case <-v.done:
			return nil, v.exitError()
		case <-v.released:
			return nil, vm.ErrReleased
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (last attempt: %w)", ctx.Err(), err)
		case <-b.after():
		}
	}
}

// attempt makes one attempt, which ends with Release too. The end of the VMM ends it by itself, as it ends the connection.
func (v *VM) attempt(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	conn, err := v.process.Dial(ctx, v.files.root, vsockSocket)
	if err != nil {
		return nil, err
	}
	l, err := v.links.add(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := connect(ctx, l, port); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// connect asks for the port, and waits for the answer until ctx ends.
func connect(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends a read or write
	err := handshake(conn, port)
	if !stop() && err == nil {
		err = ctx.Err() // the deadline is set, or about to be
	}
	return err
}

// handshake asks for port in one write, as Firecracker reads the line without waiting for more, and reads the answer
// byte by byte, as what follows it is the guest's.
func handshake(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	var line []byte
	for one := make([]byte, 1); len(line) < maxAnswer; {
		if _, err := io.ReadFull(conn, one); err != nil {
			return refused(err)
		}
		if one[0] == '\n' {
			return checkAnswer(string(line))
		}
		line = append(line, one[0])
	}
	return checkAnswer(string(line))
}

// refused names what Firecracker says by closing the connection.
func refused(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("nothing listens on the port in the guest yet")
	}
	return err
}

func checkAnswer(line string) error {
	if !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("CONNECT was answered with %q", vm.Printable(line))
	}
	return nil
}

// links are the connections that Release ends.
type links struct {
	mu     sync.Mutex
	open   map[*link]bool
	closed bool
}

// link is a connection to the guest.
type link struct {
	*net.UnixConn
	in *links
}

func (s *links) add(conn *net.UnixConn) (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, vm.ErrReleased
	}
	if s.open == nil {
		s.open = make(map[*link]bool)
	}
	l := &link{conn, s}
	s.open[l] = true
	return l, nil
}

func (s *links) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.open {
		l.UnixConn.Close()
	}
	s.open = nil
}

// Close ends the connection.
func (l *link) Close() error {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	delete(l.in.open, l)
	return l.UnixConn.Close()
}
