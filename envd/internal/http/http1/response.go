package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// maxChunk is the most that is put together with what goes around it, in one write: each one is a frame, or a packet, on the
// way to the host. A read of a process's output, 64 KiB, fits as a message in either form.
const maxChunk = 96 << 10

// small and large are what writes are put together in.
var (
	small = sync.Pool{New: func() any { return new(make([]byte, 0, 8<<10)) }}
	large = sync.Pool{New: func() any { return new(make([]byte, 0, maxChunk+8<<10)) }}
)

// sender is how an answer goes out.
type sender struct {
	conn    *conn
	body    *body
	cancel  context.CancelFunc
	close   bool // whether the connection ends after the answer
	old     bool // whether the peer speaks HTTP/1.0
	chunked bool
}

// Send implements http.Sender.
func (s *sender) Send(part *http.Part) error {
	pool := &small
	if part.Size() > 4<<10 {
		pool = &large
	}
	spare := pool.Get().(*[]byte)
	out := (*spare)[:0]
	if part.Head != nil {
		out = s.appendHead(out, part.Head)
	}
	out, err := s.sendBody(out, part)
	if err == nil && len(out) > 0 {
		_, err = s.conn.Write(out)
	}
	if cap(out) <= 2*maxChunk {
		*spare = out
		pool.Put(spare)
	}
	if err != nil {
		s.cancel()
	}
	return err
}

// sendBody appends the part's body and end to out. What does not fit is sent.
func (s *sender) sendBody(out []byte, part *http.Part) ([]byte, error) {
	first, rest := part.Body[0], part.Body[1]
	if !s.chunked && len(rest) > maxChunk { // large enough to go out by itself, without a copy
		if out = append(out, first...); len(out) > 0 {
			if _, err := s.conn.Write(out); err != nil {
				return out, err
			}
		}
		_, err := s.conn.Write(rest)
		return out[:0], err
	}
	for len(first)+len(rest) > 0 {
		n := min(len(rest), maxChunk-len(first))
		if s.chunked {
			out = strconv.AppendUint(out, uint64(len(first)+n), 16)
			out = append(out, "\r\n"...)
		}
		out = append(append(out, first...), rest[:n]...)
		if s.chunked {
			out = append(out, "\r\n"...)
		}
		if first, rest = nil, rest[n:]; len(rest) == 0 {
			break
		}
		if _, err := s.conn.Write(out); err != nil {
			return out, err
		}
		out = out[:0]
	}
	if part.Last && s.chunked {
		out = append(out, "0\r\n"...)
		for name, value := range part.Trailer.Fields {
			out = appendField(out, name, value)
		}
		out = append(out, "\r\n"...)
	}
	return out, nil
}

func (s *sender) appendHead(out []byte, head *http.Head) []byte {
	out = append(append(append(out, "HTTP/1.1 "...), statusLine(head.Status)...), "\r\n"...)
	for name, value := range head.Fields {
		out = appendField(out, name, value)
	}
	if head.Header.Get("Date") == "" {
		out = appendField(out, "Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if !head.Bodiless && head.Length < 0 {
		if s.chunked = !s.old; s.chunked {
			out = appendField(out, "Transfer-Encoding", "chunked")
		}
	}
	if s.close = s.close || head.Header.Has("Connection", "close") || !s.body.answered(); s.close {
		out = appendField(out, "Connection", "close")
	}
	return append(out, "\r\n"...)
}

func appendField(out []byte, name, value string) []byte {
	out = append(append(out, name...), ": "...)
	return append(append(out, value...), "\r\n"...)
}

func statusLine(status int) string {
	return strconv.Itoa(status) + " " + http.StatusText(status)
}

// SendFrom sends up to limit bytes of r, by the kernel alone where it can do that.
func (s *sender) SendFrom(r io.Reader, limit int64) (int64, error) {
	from := &io.LimitedReader{R: r, N: limit}
	if own, ok := r.(*io.LimitedReader); ok && own.N <= limit {
		from = own
	}
	var n int64
	var err error
	if tcp, ok := s.conn.Conn.(*net.TCPConn); ok {
		n, err = tcp.ReadFrom(from)
	} else {
		n, err = s.copy(from)
	}
	if err != nil {
		s.cancel()
	}
	return n, err
}

func (s *sender) copy(from io.Reader) (int64, error) {
	spare := large.Get().(*[]byte)
	defer large.Put(spare)
	return io.CopyBuffer(struct{ io.Writer }{s.conn.Conn}, from, (*spare)[:maxChunk])
}

// Hijack takes the connection away from the server.
func (s *sender) Hijack() (net.Conn, []byte, error) {
	if !s.body.ended {
		return nil, nil, errors.New("the request's body has not been read")
	}
	return s.conn.take()
}
