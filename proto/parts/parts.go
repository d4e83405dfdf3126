// Package parts cuts the bytes of a connection into parts, so that either direction can end while the other goes on.
//
// No way to a guest can say that: Firecracker's vsock takes the end of what the host sends for the end of the whole
// connection, and a stream of yamux that one side has closed is cut off after a while. So it is said in what is carried. Each part is a
// length of four bytes, big-endian, and as many bytes of data, 1 to MaxData; the length 0 is the end of a direction. A
// connection that ends without it was broken off.
package parts

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Protocol names it in an HTTP Upgrade.
const Protocol = "tcp-parts"

const (
	// Header is how many bytes go before the data of a part.
	Header = 4
	// MaxData is the most that a part carries.
	MaxData = 64 << 10
	// readAhead is what is read at once where less was asked for.
	readAhead = 4 << 10
)

// ErrProtocol is what a peer does that does not speak this protocol.
var ErrProtocol = errors.New("protocol error")

// Conn is one end. One goroutine may read while another writes; CloseWrite may be called at any time.
type Conn struct {
	net.Conn
	in   *bufio.Reader
	left int  // of the part that is being read
	done bool // its end was read

	writing sync.Mutex // guards the following, and the order of parts
	failed  error      // a part may have been sent in part: no other can follow
	ended   bool
}

// New returns conn's end. What was read from conn already, early, comes first.
func New(conn net.Conn, early []byte) *Conn {
	var from io.Reader = conn
	if len(early) > 0 {
		from = io.MultiReader(bytes.NewReader(early), conn)
	}
	return &Conn{Conn: conn, in: bufio.NewReaderSize(from, readAhead)}
}

// Read reads data. It is io.EOF after the peer's CloseWrite, and io.ErrUnexpectedEOF if the connection ends before that. After
// a deadline it goes on where it was.
func (c *Conn) Read(b []byte) (int, error) {
	if c.done {
		return 0, io.EOF
	}
	if c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, broken(err)
}

// next reads a length.
func (c *Conn) next() error {
	header, err := c.in.Peek(Header)
	if err != nil {
		return broken(err)
	}
	length := binary.BigEndian.Uint32(header)
	_, _ = c.in.Discard(Header) // it is there
	switch {
	case length == 0:
		c.done = true
		return io.EOF
	case length > MaxData:
		return fmt.Errorf("%w: a part of %d bytes", ErrProtocol, length)
	}
	c.left = int(length)
	return nil
}

func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// room is for one part.
var room = sync.Pool{New: func() any { return new([Header + MaxData]byte) }}

// Write sends data, in as many parts as it takes. If it fails, the connection is of no use for more.
func (c *Conn) Write(b []byte) (sent int, err error) {
	part := room.Get().(*[Header + MaxData]byte)
	defer room.Put(part)
	for sent < len(b) {
		n := copy(part[Header:], b[sent:])
		if err := c.WritePart(part[:Header+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// WritePart sends what follows the first Header bytes of b as one part, without a copy; those it overwrites.
func (c *Conn) WritePart(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(b) == Header {
		return nil // it would be the end
	}
	return c.send(b)
}

// CloseWrite tells the peer that no more comes, and leaves the other direction as it is.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.send(make([]byte, Header))
	c.ended = true
	return err
}

// send is called with writing held.
func (c *Conn) send(b []byte) error {
	if c.ended {
		return net.ErrClosed
	}
	if c.failed == nil {
		binary.BigEndian.PutUint32(b, uint32(len(b)-Header))
		_, c.failed = c.Conn.Write(b)
	}
	return c.failed
}
