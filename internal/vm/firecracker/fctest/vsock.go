package fctest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// firstHostPort is the first port that Firecracker gives to the host's end of a connection (src/vmm/src/devices/
// virtio/vsock/unix/muxer.rs counts up from 2^30).
const firstHostPort = 1 << 30

// maxCommand is the longest CONNECT line that Firecracker reads.
const maxCommand = 32

// vsock is the host side of the vsock device: a unix socket that speaks CONNECT. Connections
// wait, unanswered, until the guest's driver is up.
type vsock struct {
	path     string
	listener net.Listener
	gate     *gate
	closed   chan struct{}
	up       sync.Once
	done     sync.WaitGroup

	mu    sync.Mutex
	ports map[uint32]*port // what the guest listens on
	conns map[net.Conn]bool
	next  int
}

// port is a net.Listener inside the guest.
type port struct {
	v      *vsock
	number uint32
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func listenVsock(path string, g *gate) (*vsock, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return &vsock{path: path, listener: l, gate: g, closed: make(chan struct{}),
		ports: map[uint32]*port{}, conns: map[net.Conn]bool{}, next: firstHostPort}, nil
}

// activate begins to answer connections.
func (v *vsock) activate() {
	v.done.Go(func() {
		for {
			c, err := v.listener.Accept()
			if err != nil {
				return
			}
			v.mu.Lock()
			v.conns[c] = true
			v.mu.Unlock()
			v.done.Go(func() { v.serve(c) })
		}
	})
}

// close ends the listener and every connection, and waits for what serves them. It is called once.
func (v *vsock) close() {
	close(v.closed)
	v.listener.Close()
	v.mu.Lock()
	for c := range v.conns {
		c.Close()
	}
	v.mu.Unlock()
	v.done.Wait()
}

// serve hands c to the guest, or closes it without a word where nothing listens: a refused
// connection and a malformed command look alike from outside.
func (v *vsock) serve(c net.Conn) {
	if err := v.connect(c); err != nil {
		v.forget(c)
		c.Close()
	}
}

func (v *vsock) connect(c net.Conn) error {
	number, err := readCommand(c)
	if err != nil {
		return err
	}
	v.gate.wait()
	v.mu.Lock()
	p := v.ports[number]
	host := v.next
	v.next++
	v.mu.Unlock()
	if p == nil {
		return fmt.Errorf("nothing listens on port %d", number)
	}
	if _, err := fmt.Fprintf(c, "OK %d\n", host); err != nil {
		return err
	}
	select {
	case p.conns <- guestConn{c, v}:
		return nil
	case <-p.closed:
	case <-v.closed:
	}
	return net.ErrClosed
}

// guestConn is a connection as the guest holds it: closing it forgets it.
type guestConn struct {
	net.Conn
	v *vsock
}

// Read returns when the guest runs.
func (c guestConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.v.gate.wait()
	return n, err
}

func (c guestConn) Close() error {
	c.v.forget(c.Conn)
	return c.Conn.Close()
}

func (v *vsock) forget(c net.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.conns, c)
}

func readCommand(r io.Reader) (uint32, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < maxCommand; {
		if _, err := io.ReadFull(r, one); err != nil {
			return 0, err
		}
		if line = append(line, one[0]); one[0] == '\n' {
			break
		}
	}
	words := strings.Fields(string(line))
	if len(words) < 2 || !strings.EqualFold(words[0], "connect") {
		return 0, errors.New("the command is not CONNECT")
	}
	number, err := strconv.ParseUint(words[1], 10, 32)
	return uint32(number), err
}

func (v *vsock) listen(number uint32) (net.Listener, error) {
	defer v.up.Do(v.activate)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ports[number] != nil {
		return nil, fmt.Errorf("port %d is in use", number)
	}
	p := &port{v: v, number: number, conns: make(chan net.Conn), closed: make(chan struct{})}
	v.ports[number] = p
	return p, nil
}

func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error {
	p.once.Do(func() {
		close(p.closed)
		p.v.mu.Lock()
		defer p.v.mu.Unlock()
		delete(p.v.ports, p.number)
	})
	return nil
}

func (p *port) Addr() net.Addr { return p.v.listener.Addr() }
