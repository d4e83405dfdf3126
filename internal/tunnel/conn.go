package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Conn is the caller's end of a tunnel. Its methods may be called at the same time.
//
// It is a net.Conn with one exception: a Write that its deadline ends while it is under way ends
// the whole tunnel, since how much of it will arrive is not known. Errors of a broken tunnel are coded.
type Conn struct {
	stream clientStream
	ctx    context.Context // of the stream
	cancel context.CancelFunc
	name   address

	in     chan []byte   // what has come; closed after err is set
	err    error         // why nothing more comes
	closed chan struct{} // by Close
	once   sync.Once
	mu     sync.Mutex // guards done, and left against an Add after Wait
	done   bool       // the stream has ended
	left   sync.WaitGroup

	readBy, writeBy *deadline

	reading sync.Mutex // guards rest
	rest    []byte
	writing sync.Mutex // guards finished, and stream's sending side
	over    bool       // nothing more is sent
}

// New returns the connection that stream carries, after the other end has told that it is open. ctx is
// the stream's, and cancel ends it. The caller closes the connection.
func New(ctx context.Context, cancel context.CancelFunc, stream clientStream, name string) *Conn {
	c := &Conn{
		stream: stream, ctx: ctx, cancel: cancel, name: address(name),
		in: make(chan []byte), closed: make(chan struct{}),
		readBy: newDeadline(), writeBy: newDeadline(),
	}
	c.left.Go(c.receive)
	return c
}

// receive hands on what comes until the stream ends; what comes after Close is dropped.
func (c *Conn) receive() {
	defer c.ended()
	for {
		m, err := c.stream.Recv()
		if err != nil {
			c.err = grpcerr.Decode(err)
			close(c.in)
			return
		}
		if len(m.GetData()) == 0 {
			continue
		}
		select {
		case c.in <- m.GetData():
		case <-c.closed:
		case <-c.ctx.Done():
		}
	}
}

func (c *Conn) ended() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	passed := c.readBy.wait()
	select { // first: an end that has come goes before what could be read
	case <-c.closed:
		return 0, net.ErrClosed
	case <-passed:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	if len(c.rest) == 0 && len(p) > 0 {
		select {
		case data, more := <-c.in:
			if !more {
				return 0, c.err
			}
			c.rest = data
		case <-c.closed:
			return 0, net.ErrClosed
		case <-passed:
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write implements net.Conn. What it has taken is on its way, and arrives unless the tunnel breaks.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	release, ok := c.writeBy.guard(c.cancel)
	if !ok {
		return 0, os.ErrDeadlineExceeded
	}
	defer release()
	for n < len(p) {
		part := p[n:min(n+MaxData, len(p))]
		if err := c.send(&pb.TunnelRequest{Data: part}); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// ReadFrom sends what r gives as it comes, in the largest messages that there are.
func (c *Conn) ReadFrom(r io.Reader) (sent int64, err error) {
	buf := make([]byte, MaxData)
	for {
		n, err := r.Read(buf)
		written, writeErr := c.Write(buf[:n])
		sent += int64(written)
		switch {
		case writeErr != nil:
			return sent, writeErr
		case err == io.EOF:
			return sent, nil
		case err != nil:
			return sent, err
		}
	}
}

// send is called with writing held.
func (c *Conn) send(m *pb.TunnelRequest) error {
	if c.over || c.isClosed() {
		return net.ErrClosed
	}
	err := c.stream.Send(m)
	switch {
	case err == nil:
		return nil
	case c.isClosed():
		return net.ErrClosed
	case isDone(c.writeBy.wait()):
		return os.ErrDeadlineExceeded
	case errors.Is(err, io.EOF): // the other end has closed the tunnel; Read says why
		return models.Errorf(models.Unavailable, "the sandbox's guest has closed the connection").WithCause(err)
	}
	return grpcerr.Decode(err)
}

// CloseWrite tells the other end that nothing more will be sent, after what was written. What it sends can
// still be read.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.over || c.isClosed() {
		return net.ErrClosed
	}
	c.over = true
	return c.stream.CloseSend()
}

// Close ends the tunnel. What was written still arrives, for a moment at the most in the background; what a Write
// that is under way had not written does not.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = nil
		close(c.closed)
		if !c.writing.TryLock() {
			c.cancel()
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.done {
			c.writing.Unlock()
			return
		}
		c.left.Go(c.finish)
	})
	return err
}

// finish says that the tunnel is closed, which ends it, or ends it by force after a while.
func (c *Conn) finish() {
	defer c.writing.Unlock()
	force := time.AfterFunc(linger, c.cancel)
	context.AfterFunc(c.ctx, func() { force.Stop() })
	if c.over { // the other end knows that nothing more comes
		return
	}
	c.over = true
	if c.stream.Send(&pb.TunnelRequest{Close: true}) == nil {
		_ = c.stream.CloseSend() // never fails
	}
}

// Wait returns when nothing of the tunnel is left. Close was called, or the stream's context has ended.
func (c *Conn) Wait() { c.left.Wait() }

func (c *Conn) isClosed() bool { return isDone(c.closed) }

func isDone(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	c.readBy.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	c.writeBy.set(t)
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.name }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.name }

// address names the sandbox at the other end.
type address string

// Network implements net.Addr.
func (address) Network() string { return "tunnel" }

// String implements net.Addr.
func (a address) String() string { return string(a) }
