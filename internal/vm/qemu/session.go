package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/wrenn-sandbox/wrenn/proto/channel"
)

const (
	// helloTimeout bounds one attempt to begin a session. The protocol needs no retry, and a booting guest answers
	// the first attempt: this is for what nobody thought of.
	helloTimeout = time.Minute
	// Backoff after a session that could not be begun.
	minBackoff = 10 * time.Millisecond
	maxBackoff = time.Second
)

// session keeps a multiplexed connection to the guest open, and begins another when it breaks.
type session struct {
	path  string   // of envd's socket
	first net.Conn // to path; nil: it has to be made
	ctx   context.Context
	stop  context.CancelFunc

	valve valve

	group sync.WaitGroup // all goroutines

	mu      sync.Mutex
	mux     *yamux.Session // nil while there is none
	changed chan struct{}  // closed when mux is next set
}

// newSession begins with first, a connection to path, or, if that is nil, by making one, once it is started.
func newSession(path string, first net.Conn) *session {
	ctx, stop := context.WithCancel(context.Background())
	return &session{path: path, first: first, ctx: ctx, stop: stop, changed: make(chan struct{})}
}

// start is called once, when there is a guest or soon will be: each attempt to begin a session takes a time only.
func (s *session) start() { s.run(func() { s.keep(s.first) }) }

// close ends the session, all streams of it, and every dial.
func (s *session) close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.group.Wait()
}

// run calls f in a goroutine that close waits for, unless close was called.
func (s *session) run(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() == nil {
		s.group.Go(f)
	}
}

// keep runs until close.
func (s *session) keep(conn net.Conn) {
	backoff := minBackoff
	for s.ctx.Err() == nil {
		mux, err := s.begin(conn)
		conn = nil
		if err != nil {
			s.pause(backoff)
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		backoff = minBackoff
		s.serve(mux)
	}
	if conn != nil {
		conn.Close()
	}
}

func (s *session) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// begin takes over conn. It lasts until the guest listens.
func (s *session) begin(conn net.Conn) (*yamux.Session, error) {
	ctx, cancel := context.WithTimeout(s.ctx, helloTimeout)
	defer cancel()
	conn, err := s.valve.through(func() (net.Conn, error) {
		if conn != nil {
			return conn, nil
		}
		return dial(ctx, s.path)
	})
	if err != nil {
		return nil, err
	}
	begun, err := channel.Host(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	mux, err := channel.Client(begun)
	if err != nil {
		begun.Close()
		return nil, err
	}
	return mux, nil
}

// serve offers mux to dials until it breaks or close is called.
func (s *session) serve(mux *yamux.Session) {
	s.offer(mux)
	select {
	case <-mux.CloseChan():
	case <-s.ctx.Done():
	}
	s.offer(nil)
	mux.Close()
}

func (s *session) offer(mux *yamux.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mux = mux
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *session) current() (*yamux.Session, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mux, s.changed
}

// dial connects to a port of the guest. It waits for a session until ctx ends or close is called, and
// takes the next one when a session breaks under it.
func (s *session) dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errSessionClosed) })() //nolint:contextcheck // two contexts end it
	for {
		mux, changed := s.current()
		if mux == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		conn, err := s.open(ctx, mux, port)
		if err == nil || ctx.Err() != nil || !mux.IsClosed() {
			return conn, err
		}
		select {
		case <-changed: // serve has seen it too
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

var errSessionClosed = errors.New("the session with the guest was closed")

func (s *session) open(ctx context.Context, mux *yamux.Session, port uint32) (net.Conn, error) {
	stream, err := s.openStream(ctx, mux)
	if err != nil {
		return nil, err
	}
	if err := channel.Connect(ctx, stream, port); err != nil {
		stream.Close()
		return nil, err
	}
	return link{stream}, nil
}

// link is a connection to the guest.
type link struct{ *yamux.Stream }

// CloseWrite tells the guest that nothing more comes. It can answer for as long as channel.Client lets it; yamux
// knows no other end of a stream than this.
func (l link) CloseWrite() error { return l.Close() }

// openStream exists because OpenStream knows nothing of contexts, and blocks while a guest does not take the streams
// that are offered to it already. A call that is given up ends with its session at the latest.
func (s *session) openStream(ctx context.Context, mux *yamux.Session) (*yamux.Stream, error) {
	type result struct {
		stream *yamux.Stream
		err    error
	}
	opened := make(chan result)
	s.run(func() {
		stream, err := mux.OpenStream()
		select {
		case opened <- result{stream, err}:
		case <-ctx.Done():
			if err == nil {
				stream.Close()
			}
		}
	})
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("open a stream to the guest: %w", r.err)
		}
		return r.stream, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
