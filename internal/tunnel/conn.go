package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Conn is the caller's end of a tunnel. Its methods may be called at the same time.
//
// It is a net.Conn with one exception: a Write that its deadline ends after some of it was sent ends
// the whole tunnel, since how much of it will arrive is not known. Errors of a broken tunnel are coded.
type Conn struct {
	conn net.Conn
	name address

	mu     sync.Mutex    // guards closed against a deadline that is set meanwhile
	closed chan struct{} // by Close
	once   sync.Once     // of Close
	gone   chan struct{} // nothing is left; closed by Break
	broken sync.Once     // of Break

	reading sync.Mutex // guards what follows
	in      *bufio.Reader
	left    int   // of the record that is being read
	err     error // why nothing more comes
	ended   atomic.Bool

	writing sync.Mutex // guards over, and conn's sending side
	over    bool       // nothing more is sent
}

// Open asks the agent at the other end of conn, which is new, for a connection to a sandbox's guest. ctx bounds the
// opening alone. conn is closed if it fails, and belongs to the tunnel otherwise, which the caller closes.
func Open(ctx context.Context, conn net.Conn, sandbox string) (*Conn, error) {
	c := &Conn{
		conn: conn, name: address(sandbox), in: bufio.NewReaderSize(conn, small),
		closed: make(chan struct{}), gone: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, c.Break)
	err := lost(c.open(sandbox))
	if !stop() {
		err = models.AsError(ctx.Err())
	}
	if err != nil {
		c.Break()
		return nil, err
	}
	return c, nil
}

func (c *Conn) open(sandbox string) error {
	req, err := proto.Marshal(&pb.TunnelRequest{SandboxId: sandbox})
	if err != nil {
		return err
	}
	begin := bytes.NewBufferString(preface + version)
	_, _ = send(begin, open, req) // a buffer takes everything
	if _, err := begin.WriteTo(c.conn); err != nil {
		return err
	}
	k, length, err := next(c.in)
	switch {
	case err != nil:
		return err
	case k == failed:
		return reason(c.in, length)
	case k != open || length > 0:
		return errors.New("the agent's answer is none")
	}
	return nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	for c.left == 0 && len(p) > 0 {
		if c.err != nil {
			return 0, c.err
		}
		if err := c.next(); err != nil {
			return 0, c.why(err)
		}
	}
	n, err := c.take(p[:min(len(p), c.left)])
	c.left -= n
	return n, c.why(err)
}

// take reads a part of a record: what came with its header, and what one read gives of the rest, which is on its way. By
// itself the former would be a small part of a large record, and cost whoever passes it on as much as a large one.
func (c *Conn) take(p []byte) (int, error) {
	came := c.in.Buffered()
	n, err := c.in.Read(p)
	if came == 0 || err != nil || n == len(p) {
		return n, err
	}
	more, _ := c.conn.Read(p[n:]) // the next Read meets an error again
	return n + more, nil
}

// next begins another record.
func (c *Conn) next() error {
	k, length, err := next(c.in)
	switch {
	case err != nil:
		return err
	case k == data:
		c.left = length
		return nil
	case k == end:
		c.err = io.EOF
	case k == failed:
		c.err = reason(c.in, length)
	default:
		c.err = lost(errors.New("the agent opens what is open"))
	}
	c.ended.Store(true)
	return nil
}

// why is what the caller learns of an error of conn.
func (c *Conn) why(err error) error {
	switch {
	case err == nil:
		return nil
	case c.isClosed():
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	}
	return lost(err)
}

// Write implements net.Conn. What it has taken is on its way, and arrives unless the tunnel breaks.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for n < len(p) {
		part := p[n:min(n+MaxData, len(p))]
		sent, err := c.send(part)
		if errors.Is(err, os.ErrDeadlineExceeded) && int64(n)+sent > 0 {
			c.Break()
		}
		if err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// send is called with writing held.
func (c *Conn) send(part []byte) (int64, error) {
	switch {
	case c.over || c.isClosed():
		return 0, net.ErrClosed
	case c.ended.Load(): // Read says why
		return 0, models.Errorf(models.Unavailable, "the sandbox's guest has closed the connection")
	}
	sent, err := send(c.conn, data, part)
	return sent, c.why(err)
}

// ReadFrom sends what r gives as it comes, in the largest records that there are.
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

// CloseWrite tells the other end that nothing more will be sent, after what was written. What it sends can
// still be read.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.over || c.isClosed() {
		return net.ErrClosed
	}
	c.over = true
	return c.why(sendEnd(c.conn, nil))
}

// Close ends the tunnel. What was written still arrives, for a moment at the most in the background; what a Write
// that is under way had not written does not.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = nil
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.closed)
		_ = c.conn.SetReadDeadline(past) // a Read under way ends; if conn is broken, it has
		if !c.writing.TryLock() {
			c.Break()
			return
		}
		go c.finish() // Wait waits for it
	})
	return err
}

// finish closes the tunnel in order. What comes meanwhile is dropped, so that no reset overtakes what was sent.
func (c *Conn) finish() {
	defer c.Break()
	if c.last() == nil && closeWrite(c.conn) == nil {
		_, _ = io.Copy(io.Discard, c.conn) // until the agent ends it too
	}
}

// last is called with writing held, and releases it.
func (c *Conn) last() error {
	defer c.writing.Unlock()
	c.reading.Lock() // the last Read has ended
	err := c.conn.SetDeadline(time.Now().Add(linger))
	c.reading.Unlock()
	if err != nil || c.over {
		return err
	}
	c.over = true
	return sendEnd(c.conn, nil)
}

// Break ends the tunnel at once, and not in order.
func (c *Conn) Break() {
	c.broken.Do(func() {
		_ = c.conn.Close() // of what was under way nothing is expected
		close(c.gone)
	})
}

// Wait returns when nothing of the tunnel is left after Close. If ctx ends before, it breaks the tunnel.
func (c *Conn) Wait(ctx context.Context) {
	select {
	case <-c.gone:
	case <-ctx.Done():
		c.Break()
	}
}

func (c *Conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.set(c.conn.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.set(c.conn.SetReadDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.set(c.conn.SetWriteDeadline, t) }

func (c *Conn) set(deadline func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed() {
		return net.ErrClosed
	}
	return deadline(t)
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
