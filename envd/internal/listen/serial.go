package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/wrenn-sandbox/wrenn/proto/channel"
)

// requestTimeout is how long a new stream may take to name its port.
const requestTimeout = 30 * time.Second

// serialListener hands out the streams that hosts open over a virtio-serial port.
type serialListener struct {
	port   uint32
	ctx    context.Context // of the listener's life; ended by Close
	cancel context.CancelFunc
	conns  chan net.Conn
	part   atomic.Pointer[context.CancelFunc] // ends the last session; nil before the first
	group  sync.WaitGroup

	done chan struct{} // closed when err is set
	err  error
}

// carrier is the port that the sessions run over.
type carrier interface {
	channel.Port
	io.Closer
}

// VirtioSerial listens for streams to port over the virtio-serial port with the given
// name. It returns at once and waits for the port in the background. Hosts may come and
// go; a port that fails ends the listener.
func VirtioSerial(name string, port uint32) net.Listener {
	return newSerial(port, func(ctx context.Context) (carrier, error) { return openPort(ctx, name) })
}

func newSerial(port uint32, open func(context.Context) (carrier, error)) *serialListener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &serialListener{port: port, ctx: ctx, cancel: cancel, conns: make(chan net.Conn), done: make(chan struct{})}
	l.group.Go(func() {
		defer close(l.done)
		l.err = l.run(open)
	})
	return l
}

// run serves one session after the other until the port fails or the listener closes.
func (l *serialListener) run(open func(context.Context) (carrier, error)) error {
	port, err := open(l.ctx)
	if err != nil {
		return err
	}
	defer func() { _ = port.Close() }()
	guest := channel.NewGuest(port)
	for {
		session, err := guest.Accept(l.ctx)
		if err != nil {
			return err
		}
		if err := l.serve(session); err != nil {
			return err
		}
	}
}

// serve hands out the streams of session until it ends. What is left of it then goes on
// ending in the background: a write of its may be stuck until the next host reads.
func (l *serialListener) serve(session *channel.Session) error {
	mux, err := channel.Server(session)
	if err != nil {
		return err
	}
	ctx, part := context.WithCancel(l.ctx)
	defer part()
	l.part.Store(&part)
	l.group.Go(func() { l.acceptStreams(mux) })
	select {
	case <-session.Done():
	case <-ctx.Done():
	}
	l.group.Go(func() { _ = mux.Close() })
	return nil
}

// Hangup returns what ends the session that there is now, if there is one, and no later one. Its host is not told: the next host has no old one to be ended first.
func (l *serialListener) Hangup() (end func()) {
	if part := l.part.Load(); part != nil {
		return *part
	}
	return func() {}
}

func (l *serialListener) acceptStreams(mux *yamux.Session) {
	for {
		stream, err := mux.Accept()
		if err != nil {
			return
		}
		l.group.Go(func() { l.hand(stream) })
	}
}

// hand hands stream to Accept if it asks for the listener's port.
func (l *serialListener) hand(stream net.Conn) {
	if err := l.greet(stream); err != nil {
		_ = stream.Close()
		return
	}
	select {
	case l.conns <- serialConn{stream}:
	case <-l.ctx.Done():
		_ = stream.Close()
	}
}

func (l *serialListener) greet(stream net.Conn) error {
	port, err := channel.ReadConnect(stream, requestTimeout)
	if err != nil {
		return err
	}
	if port != l.port {
		err := fmt.Errorf("nobody listens on port %d", port)
		return errors.Join(err, channel.Refuse(stream, err.Error()))
	}
	return channel.Grant(stream, port)
}

// serialConn is a stream of the mux.
type serialConn struct{ net.Conn }

// CloseWrite tells the peer that no more comes. That is what a stream's Close does: what the peer still sends can be
// read (yamux, Stream.Read).
func (c serialConn) CloseWrite() error { return c.Close() }

// Accept returns the next stream.
func (l *serialListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
	}
	if l.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	return nil, l.err
}

// Close ends the sessions and their streams, and waits until that is done.
func (l *serialListener) Close() error {
	l.cancel()
	l.group.Wait()
	return nil
}

// Addr names the port.
func (l *serialListener) Addr() net.Addr {
	return address{TransportVirtioSerial, PortName}
}
