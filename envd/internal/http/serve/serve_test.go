package serve

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = 60 * time.Second

// keeper is a listener that keeps something of its connections.
type keeper struct {
	net.Listener
	ended chan struct{}
}

func (k keeper) Hangup() (end func()) { return func() { close(k.ended) } }

// A hang-up ends the connections of its time, and what their listener keeps, and none that comes before it is done.
func TestHangup(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{MaxConnections: 2, Service: http.Service{HeaderTimeout: patience, Logger: slog.New(slog.DiscardHandler)}}
	k := keeper{l, make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(k) }()
	s.Hangup() // which nobody has end anything
	before := connect(t, s, l, 1)
	end := s.Hangup()
	after := connect(t, s, l, 2)
	end()
	if n, err := before.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it was not ended: %d bytes, %v", n, err)
	}
	select {
	case <-k.ended:
	case <-time.After(patience):
		t.Error("the listener keeps what it has")
	}
	if err := after.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := after.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a later one was ended: %v", err)
	}
	if err := errors.Join(s.Close(), <-served); err != nil {
		t.Error(err)
	}
}

// connect returns a connection when the server has count of them.
func connect(t *testing.T, s *Server, l net.Listener, count int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	if err := conn.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	for s.count() != count {
		if time.Now().After(deadline) {
			t.Fatalf("the server has %d connections, not %d", s.count(), count)
		}
		time.Sleep(time.Millisecond)
	}
	return conn
}

func (s *Server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
