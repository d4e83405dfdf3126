package channel

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// window is how many bytes a stream may hold that its reader has not taken yet: yamux's
// least. With 4 MiB, transfers to and from a guest were no faster, and the memory is the
// sandbox's at one end and shared by all sandboxes at the other.
const window = 256 << 10

const (
	// backlog is how many streams may wait for the guest to take them.
	backlog = 128
	// writeTimeout is long because a guest that shares its processor may stall.
	writeTimeout = 60 * time.Second
	// hostLinger is how long the guest may go on writing to a stream that the host has
	// closed, before it is told to stop.
	hostLinger = 5 * time.Second
	// guestLinger is how long the host may take to read the rest of a stream that the
	// guest has closed; what it has not read then is lost.
	guestLinger = 5 * time.Minute
)

// Client returns the multiplexer of the host's end of a session. It only opens streams:
// a guest that opens one, or does anything else that envd does not do, ends the session.
func Client(s *Session) (*yamux.Session, error) {
	return yamux.Client(&muxConn{session: s, banned: banPing | banOpen}, config(hostLinger))
}

// Server returns the multiplexer of the guest's end of a session. It only accepts streams.
func Server(s *Session) (*yamux.Session, error) {
	return yamux.Server(&muxConn{session: s, banned: banPing}, config(guestLinger))
}

func config(linger time.Duration) *yamux.Config {
	config := yamux.DefaultConfig()
	config.AcceptBacklog = backlog
	config.EnableKeepAlive = false // it would wake sleeping guests
	config.ConnectionWriteTimeout = writeTimeout
	config.MaxStreamWindowSize = window
	config.StreamCloseTimeout = linger
	config.StreamOpenTimeout = 0 // Connect is bounded by its context; a slow guest is no reason to end all streams
	config.LogOutput = io.Discard
	return config
}

// The header of yamux (its spec.md): version, type, flags, stream, length.
const (
	muxHeaderSize = 12
	muxTypeData   = 0
	muxTypePing   = 2
	muxFlagSYN    = 1
)

// What a peer may be forbidden to send.
const (
	banPing = 1 << iota // yamux starts a goroutine for each
	banOpen             // yamux keeps a window for each
)

// muxConn is a Session as yamux uses it: one goroutine reads and one writes.
type muxConn struct {
	session *Session
	banned  int

	// held is a header whose body yamux writes next; both go into one frame.
	held []byte

	header [muxHeaderSize]byte // of the yamux frame that is being read
	filled int                 // how much of header has been read
	body   uint32              // how much of the body has not been read
}

// Close closes the session.
func (c *muxConn) Close() error { return c.session.Close() }

// Write sends b, or keeps it until the next Write if it is the header of a body.
func (c *muxConn) Write(b []byte) (int, error) {
	if len(c.held) == 0 && announcesBody(b) {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	n, err := c.session.write(c.held, b)
	c.held = c.held[:0]
	return n, err
}

// announcesBody reports whether b is a header and nothing else, and a body follows.
func announcesBody(b []byte) bool {
	return len(b) == muxHeaderSize && b[1] == muxTypeData && muxLength(b) > 0
}

func muxLength(header []byte) uint32 { return binary.BigEndian.Uint32(header[8:]) }

// Read reads from the session and refuses what the peer must not send.
func (c *muxConn) Read(b []byte) (int, error) {
	n, err := c.session.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		used, err := c.follow(rest)
		if err != nil {
			c.session.end(err)
			return 0, err
		}
		rest = rest[used:]
	}
	return n, err
}

// follow takes a part of one yamux frame, and returns how much of b that was.
func (c *muxConn) follow(b []byte) (int, error) {
	if c.body > 0 {
		n := min(uint32(len(b)), c.body)
		c.body -= n
		return int(n), nil
	}
	n := copy(c.header[c.filled:], b)
	c.filled += n
	if c.filled < muxHeaderSize {
		return n, nil
	}
	c.filled = 0
	if c.header[1] == muxTypeData {
		c.body = muxLength(c.header[:])
	}
	return n, c.checkHeader()
}

// checkHeader refuses a header that would make yamux spend memory on the peer's behalf.
func (c *muxConn) checkHeader() error {
	opens := binary.BigEndian.Uint16(c.header[2:])&muxFlagSYN != 0
	switch {
	case c.header[1] == muxTypePing && c.banned&banPing != 0:
		return fmt.Errorf("%w: a ping", ErrProtocol)
	case opens && c.header[1] != muxTypePing && c.banned&banOpen != 0:
		return fmt.Errorf("%w: it opened a stream", ErrProtocol)
	}
	return nil
}
