// Package serve listens for connections and serves them in the version of HTTP that they speak: HTTP/2 if they begin with its
// preface (RFC 9113, section 3.4), HTTP/1.1 otherwise.
package serve

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/http1"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/http2"
)

// firstPause and lastPause bound how long Serve waits after an error that may pass, such as a lack of descriptors.
const firstPause, lastPause = 5 * time.Millisecond, time.Second

// Server serves any number of listeners. Its methods may be called at the same time; its fields are set before.
type Server struct {
	http.Service
	// MaxConnections is how many connections there may be at once. Those that handlers have taken are not counted.
	MaxConnections int
	// Context returns what the requests of one connection have in common. Nil: nothing.
	Context func(context.Context) context.Context

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// conn is a connection that the server can close. A handler that takes it over closes it itself.
type conn struct {
	net.Conn
	server *Server
}

// Serve serves what l accepts until l fails or the server is closed; the latter is no error. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if !s.add(l) {
		return l.Close()
	}
	defer s.remove(l)
	for pause := firstPause; ; {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = firstPause
			s.start(c)
		case s.isClosed():
			return nil
		case !passes(err):
			return err
		default:
			s.Logger.Warn("no connection is accepted", "error", err)
			<-time.After(pause)
			pause = min(2*pause, lastPause)
		}
	}
}

// passes reports whether an error of Accept may not come again.
func passes(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

func (s *Server) add(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.listeners == nil {
		s.listeners, s.conns = map[net.Listener]struct{}{}, map[*conn]struct{}{}
	}
	s.listeners[l] = struct{}{}
	return true
}

// remove closes l, unless Close has.
func (s *Server) remove(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ours := s.listeners[l]; ours {
		delete(s.listeners, l)
		_ = l.Close()
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// start serves c, unless it is one too many: the one client that there is must have gone mad, and memory is small.
func (s *Server) start(accepted net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.MaxConnections {
		_ = accepted.Close()
		return
	}
	c := &conn{Conn: accepted, server: s}
	s.conns[c] = struct{}{}
	go c.serve()
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve serves the connection to its end, or until a handler takes it.
func (c *conn) serve() {
	defer c.server.forget(c)
	defer func() {
		if reason := recover(); reason != nil {
			_ = c.Close()
			c.server.Logger.Error("a connection broke the server", "reason", reason, "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if c.server.Context != nil {
		ctx = c.server.Context(ctx)
	}
	_ = c.SetReadDeadline(time.Now().Add(c.server.HeaderTimeout))
	first := make([]byte, http2.Telling)
	n, err := io.ReadFull(c.Conn, first)
	switch {
	case n == 0 || err != nil:
		_ = c.Close()
	case http2.Begins(first):
		http2.Serve(ctx, c.Conn, &c.server.Service)
	default:
		http1.Serve(ctx, c.Conn, first, &c.server.Service, func() { c.server.forget(c) })
	}
}

// cut ends a connection, and who waits in it: Close alone ends only the writes of some.
func (c *conn) cut() {
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close()
}

// Hangup returns what ends all connections that there are now, but those that handlers have taken, and what its listeners keep of them. It ends none that comes later.
func (s *Server) Hangup() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ends []func()
	for c := range s.conns {
		ends = append(ends, c.cut)
	}
	for l := range s.listeners {
		if l, ok := l.(interface{ Hangup() func() }); ok {
			ends = append(ends, l.Hangup())
		}
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// Close closes all listeners, and all connections but those that handlers have taken, at once. It does not wait for handlers. It
// can be repeated.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	failed := make([]error, 0, len(s.listeners))
	for l := range s.listeners {
		failed = append(failed, l.Close())
	}
	clear(s.listeners)
	for c := range s.conns {
		c.cut()
	}
	return errors.Join(failed...)
}
