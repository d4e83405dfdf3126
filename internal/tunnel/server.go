package tunnel

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
)

const (
	// beginLimit bounds how long a connection may take to say what it is.
	beginLimit = 10 * time.Second
	// maxBeginning is how many may be about to.
	maxBeginning = 256
)

// Handler opens the connection that a tunnel leads to and has the tunnel carry it. ctx ends with the caller. What it
// returns is what the caller learns, as of a gRPC call.
type Handler func(ctx context.Context, t *Tunnel) error

// Server serves gRPC and tunnels at one address.
type Server struct {
	grpc   *grpc.Server
	handle Handler
	log    *slog.Logger
	life   context.Context // of tunnels
	stop   context.CancelFunc
}

// NewServer returns a server of g's calls, and of tunnels that handle opens. It serves one listener.
func NewServer(g *grpc.Server, handle Handler, log *slog.Logger) *Server {
	s := &Server{grpc: g, handle: handle, log: log}
	s.life, s.stop = context.WithCancel(context.Background())
	return s
}

// Serve serves what connects to l, and closes it. It returns when all calls and tunnels have ended after Stop or GracefulStop,
// or when l fails.
func (s *Server) Serve(l net.Listener) error {
	f := &fork{Listener: l, calls: make(chan accepted), beginning: make(chan struct{}, maxBeginning)}
	f.ctx, f.end = context.WithCancel(context.Background()) // gRPC closes it
	var left sync.WaitGroup
	left.Go(func() { s.accept(f, &left) })
	err := s.grpc.Serve(f)
	if err != nil {
		s.stop()
	}
	left.Wait()
	return err
}

// GracefulStop takes no more connections, and waits for the calls under way. Serve waits for the tunnels.
func (s *Server) GracefulStop() { s.grpc.GracefulStop() }

// Stop breaks off calls and tunnels.
func (s *Server) Stop() {
	s.stop()
	s.grpc.Stop()
}

// fork is the listener that gRPC has: of the connections that come to one of ours it gets those that are not tunnels.
type fork struct {
	net.Listener
	ctx       context.Context // until it is closed
	end       context.CancelFunc
	calls     chan accepted
	beginning chan struct{} // has one for each connection that has not said what it is
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements net.Listener.
func (f *fork) Accept() (net.Conn, error) {
	select {
	case a := <-f.calls:
		return a.conn, a.err
	case <-f.ctx.Done():
		return nil, net.ErrClosed
	}
}

// give has Accept return a, unless the listener is closed.
func (f *fork) give(a accepted) bool {
	select {
	case f.calls <- a:
		return true
	case <-f.ctx.Done():
		return false
	}
}

// Close implements net.Listener.
func (f *fork) Close() error {
	f.end()
	return f.Listener.Close()
}

// accept takes connections until the listener is closed. gRPC waits a little after an error that passes.
func (s *Server) accept(f *fork, left *sync.WaitGroup) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			if !f.give(accepted{err: err}) || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		select {
		case f.beginning <- struct{}{}:
			left.Go(func() { s.begin(f, conn) })
		default:
			_ = conn.Close() // nothing was promised
		}
	}
}

// begin finds out what a connection is, and serves a tunnel.
func (s *Server) begin(f *fork, conn net.Conn) {
	in := bufio.NewReaderSize(conn, small)
	isTunnel, sandbox, err := f.sort(conn, in)
	begun := func() { <-f.beginning }
	if err != nil {
		defer begun() // once it is gone
	} else {
		begun()
	}
	switch {
	case isTunnel:
		s.serve(conn, in, sandbox, err)
	case err != nil || !f.give(accepted{conn: peeked{conn, in}}):
		_ = conn.Close()
	}
}

// sort reads what a connection begins with: of a tunnel its opening, otherwise nothing that is not left in in.
func (f *fork) sort(conn net.Conn, in *bufio.Reader) (isTunnel bool, sandbox string, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(beginLimit)); err != nil {
		return false, "", err
	}
	defer context.AfterFunc(f.ctx, func() { _ = conn.SetReadDeadline(past) })()
	first, err := in.Peek(1)
	if err != nil {
		return false, "", err
	}
	if first[0] == preface[0] {
		isTunnel = true
		sandbox, err = readOpening(in)
	}
	return isTunnel, sandbox, errors.Join(err, conn.SetReadDeadline(time.Time{}))
}

// peeked is a connection of which something was read.
type peeked struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (p peeked) Read(b []byte) (int, error) { return p.in.Read(b) }

// serve serves a tunnel, unless its opening has failed already: then it says so.
func (s *Server) serve(conn net.Conn, in *bufio.Reader, sandbox string, err error) {
	defer context.AfterFunc(s.life, func() { _ = conn.Close() })()
	t := accept(s.life, conn, in, sandbox)
	if err == nil {
		err = s.handle(t.ctx, t)
	}
	t.finish(grpcerr.EncodeLogged(s.life, s.log, "tunnel", err))
}
