package channel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Port is what the channel runs over: in the guest the file of a virtio-serial port, on
// the host a connection to its other end. *os.File and net.Conn are Ports. Deadlines
// must also end calls that are blocked already.
type Port interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// ErrProtocol is the end of a session whose peer sent what is not to be sent there.
var ErrProtocol = errors.New("the peer broke the channel's protocol")

// past is a deadline that ends every call at once.
var past = time.Unix(1, 0)

// link is one end of a port. Sessions follow one another on it.
type link struct {
	port Port

	// readMu is held while reading. It guards dec and pending.
	readMu sync.Mutex
	dec    decoder
	// pending is the nonce of a HELLO that ended a session and is not answered yet.
	pending nonce

	// writeMu is held while writing, so that frames do not mix. It guards out.
	writeMu sync.Mutex
	out     []byte
}

func newLink(port Port) *link {
	return &link{port: port, dec: decoder{source: port}}
}

// write sends the frame or frames that b holds.
func (l *link) write(b []byte) error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	_, err := l.port.Write(b)
	return err
}

// interruptible lifts the port's deadlines and sets them to the past once ctx ends. The
// function it returns undoes that; when that returns, ctx touches the port no more.
func (l *link) interruptible(ctx context.Context) (undo func()) {
	l.clearDeadlines()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = l.port.SetReadDeadline(past)
		_ = l.port.SetWriteDeadline(past)
	})
	return func() {
		if !stop() {
			<-interrupted
			l.clearDeadlines()
		}
	}
}

// clearDeadlines ignores errors: a port that cannot do it fails at the next read.
func (l *link) clearDeadlines() {
	_ = l.port.SetReadDeadline(time.Time{})
	_ = l.port.SetWriteDeadline(time.Time{})
}

// Session is a stream of bytes between host and guest, from a HELLO until either end
// closes it, the peer breaks the protocol, or, in the guest, the next HELLO. Reading and
// writing may happen at the same time.
type Session struct {
	link  *link
	nonce nonce
	guest bool
	rest  []byte // of the last frame's payload; guarded by link.readMu

	once  sync.Once
	ended chan struct{}
	err   error // why it ended; written once, before ended is closed
}

func newSession(l *link, n nonce, guest bool) *Session {
	return &Session{link: l, nonce: n, guest: guest, ended: make(chan struct{})}
}

// Done is closed when the session has ended, whether or not anyone reads from it then.
func (s *Session) Done() <-chan struct{} { return s.ended }

// Close ends the session. On the host it closes the connection too; in the guest the
// port stays open for the next session.
func (s *Session) Close() error {
	s.end(net.ErrClosed)
	if closer, ok := s.link.port.(io.Closer); ok && !s.guest {
		return closer.Close()
	}
	return nil
}

// end ends the session for the reason err. A blocked Read gives the port free; a blocked
// Write goes on until its frame is whole, because the next session comes behind it.
func (s *Session) end(err error) {
	s.once.Do(func() {
		s.err = err
		_ = s.link.port.SetReadDeadline(past)
		close(s.ended)
	})
}

// failure returns why the session ended, nil while it has not.
func (s *Session) failure() error {
	select {
	case <-s.ended:
		return s.err
	default:
		return nil
	}
}

// Read reads what the peer wrote. It returns io.EOF once the host has begun another
// session or has closed the connection.
func (s *Session) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.link.readMu.Lock()
	defer s.link.readMu.Unlock()
	for {
		if err := s.failure(); err != nil {
			return 0, err
		}
		if len(s.rest) > 0 {
			n := copy(p, s.rest)
			s.rest = s.rest[n:]
			return n, nil
		}
		if err := s.receive(); err != nil {
			s.end(err)
		}
	}
}

// receive takes one frame from the link.
func (s *Session) receive() error {
	f, err := s.link.dec.next()
	switch {
	case errors.Is(err, errFrame):
		return errors.Join(ErrProtocol, err)
	case err != nil:
		return err
	case f.kind == data && f.nonce == s.nonce:
		s.rest = f.payload
		return nil
	case f.kind == hello && s.guest:
		s.link.pending = f.nonce
		return io.EOF
	default:
		return ErrProtocol
	}
}

// Write sends p. What it has sent when it fails may or may not reach the peer.
func (s *Session) Write(p []byte) (int, error) {
	return s.write(nil, p)
}

// write sends head and body as if they were one, and returns how much of body went out.
func (s *Session) write(head, body []byte) (int, error) {
	s.link.writeMu.Lock()
	defer s.link.writeMu.Unlock()
	sent := 0
	for len(head) > 0 || sent < len(body) {
		part := body[sent:min(len(body), sent+sendPayload-len(head))]
		if err := s.send(head, part); err != nil {
			return sent, err
		}
		sent += len(part)
		head = nil
	}
	return sent, nil
}

// send sends one frame. Its caller holds link.writeMu.
func (s *Session) send(head, body []byte) error {
	if err := s.failure(); err != nil {
		return err
	}
	b := appendHeader(s.link.out[:0], data, s.nonce, len(head)+len(body))
	b = append(append(b, head...), body...)
	b = appendTrailer(b, s.nonce)
	s.link.out = b
	if _, err := s.link.port.Write(b); err != nil {
		s.end(err)
		return err
	}
	return nil
}
