package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// What is read from the guest at once: little while little comes, since most tunnels wait for their next request
// most of the time, and a lot otherwise.
const small, large = 4 << 10, MaxData

// past is a deadline that ends a read or write that is under way.
var past = time.Unix(1, 0)

// Serve tells the caller that the tunnel is open, then moves bytes both ways until the guest has closed its
// side of conn, or the caller is gone. The end of what the caller sends is passed on, if conn can say so, and leaves the
// other way open. It closes conn.
func Serve(stream serverStream, conn net.Conn) error {
	s := &server{stream: stream, conn: conn, gone: make(chan struct{})}
	defer s.end()
	defer context.AfterFunc(stream.Context(), s.end)() // up may be waiting for the guest, and sees nothing of it
	if err := stream.Send(&pb.TunnelResponse{}); err != nil {
		return err
	}
	go s.up() // ends at the latest when the call has: then Recv and Write fail
	return s.down()
}

type server struct {
	stream serverStream
	conn   net.Conn
	gone   chan struct{} // closed when the caller is gone
	reason error         // why, nil if it has closed the tunnel; to be read once gone is closed
}

// end makes what is under way on conn fail: some connections wait for the guest's end after a Close.
func (s *server) end() {
	_ = s.conn.SetDeadline(past)
	_ = s.conn.Close() // of what was written nobody waits for an answer
}

// up moves what the caller sends.
func (s *server) up() {
	for {
		m, err := s.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			s.closeWrite()
			return
		case err != nil || m.GetClose():
			s.leave(err)
			return
		case len(m.GetData()) > MaxData:
			s.leave(models.Errorf(models.Invalid, "a message of a tunnel has at most %d bytes", MaxData))
			return
		}
		if _, err := s.conn.Write(m.GetData()); err != nil {
			// The guest reads no more. It may have said why, and its end follows.
			_ = s.conn.SetReadDeadline(time.Now().Add(linger))
			return
		}
	}
}

func (s *server) closeWrite() {
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // of a connection that is broken the reader says so
	}
}

func (s *server) leave(reason error) {
	s.reason = reason
	close(s.gone)
	s.end()
}

// down moves what the guest sends.
func (s *server) down() error {
	little := make([]byte, small)
	for buf := little; ; {
		n, err := s.conn.Read(buf)
		if n > 0 { // Send encodes the message before it returns: buf can be used again
			if err := s.stream.Send(&pb.TunnelResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return s.ended(err)
		case n < small:
			buf = little
		case len(buf) == small: // and it is full
			buf = make([]byte, large)
		}
	}
}

// ended explains why nothing more comes from conn.
func (s *server) ended(err error) error {
	select {
	case <-s.gone:
		return s.reason
	default:
	}
	if ended := s.stream.Context().Err(); ended != nil {
		return ended
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return models.Errorf(models.Unavailable, "the connection to the sandbox's guest was lost").
		WithCause(fmt.Errorf("tunnel: %w", err))
}
