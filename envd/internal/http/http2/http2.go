// Package http2 serves HTTP/2 (RFC 9113) on one connection, without TLS and with prior knowledge. Priorities are ignored, nothing is
// pushed, and answers' fields are not compressed.
//
// What a peer can make it do is bounded: streams by how many handlers run, whether their streams live or not; what is
// held of bodies by windows; heads in size, in fields and in frames; and what it is answered waits until it reads.
package http2

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Telling is how many bytes of a connection tell its version.
const Telling = 4

// Begins reports whether the first bytes of a connection are those of HTTP/2.
func Begins(first []byte) bool { return string(first) == preface[:Telling] }

const (
	// maxStreams is how many requests of a connection are served at once.
	maxStreams = 250
	// streamWindow and connWindow are how much of a body, and of all, may be here before handlers have read it. A stream has the
	// smaller part, so that one whose handler waits holds up no other.
	streamWindow, connWindow = 64 << 10, 1 << 20
	// defaultWindow is the windows' size before anybody says anything (section 6.9.2).
	defaultWindow = 64<<10 - 1
	// goodbye is how long the peer has to take the reason why the connection ends.
	goodbye = time.Second
)

// conn is a connection. One goroutine reads, handlers have one each.
type conn struct {
	net.Conn
	service *http.Service
	ctx     context.Context
	tasks   sync.WaitGroup

	// Of the goroutine that reads.
	reader *bufio.Reader
	fields *hpack.Decoder
	lastID uint32

	writing sync.Mutex // held during a write, and over several that belong together

	mu      sync.Mutex
	changed sync.Cond // on mu: a window has grown, or something has ended
	streams map[uint32]*stream
	running int // handlers
	ended   bool
	// The peer's settings and its windows.
	peerFrame, peerWindow int64
	sendWindow            int64
	// receiveWindow is what the peer may still send, consumed what it may send again once it is told.
	receiveWindow, consumed int64
}

// Serve answers what comes in on c, of which the first Telling bytes have been read, until either side ends it. It closes it, and
// waits for its handlers.
func Serve(ctx context.Context, c net.Conn, service *http.Service) {
	ctx, cancel := context.WithCancel(ctx)
	conn := &conn{
		Conn: c, service: service, ctx: ctx, reader: bufio.NewReader(c), streams: map[uint32]*stream{},
		peerFrame: maxFrame, peerWindow: defaultWindow, sendWindow: defaultWindow, receiveWindow: connWindow,
	}
	conn.changed.L = &conn.mu
	conn.fields = hpack.NewDecoder(4096, nil) // section 6.5.2: the table's size unless said otherwise
	conn.fields.SetMaxStringLength(service.MaxHeader)
	err := conn.serve()
	cancel()
	conn.end()
	conn.sayGoodbye(err)
	conn.cut()
	conn.tasks.Wait()
}

func (c *conn) serve() error {
	rest := make([]byte, len(preface)-Telling)
	if _, err := io.ReadFull(c.reader, rest); err != nil || !bytes.Equal(rest, []byte(preface[Telling:])) {
		return errors.Join(err, connError{protocolError, "the preface is malformed"})
	}
	if err := c.greet(); err != nil {
		return err
	}
	buf := new([maxFrame]byte)
	for first := true; ; first = false {
		c.allowTime(first)
		f, err := readFrame(c.reader, buf)
		if err == nil && first && (f.kind != frameSettings || f.has(flagAck)) {
			err = connError{protocolError, "the first frame is not SETTINGS"}
		}
		if err == nil {
			err = c.receive(f)
		}
		var stream streamError
		if errors.As(err, &stream) {
			err = c.reset(stream.stream, stream.code)
		}
		if err != nil {
			return err
		}
	}
}

// greet sends the settings, and makes the connection's window what it is.
func (c *conn) greet() error {
	settings := []struct {
		id    uint16
		value uint32
	}{{settingMaxStreams, maxStreams}, {settingInitialWindow, streamWindow}, {settingMaxHeaderList, uint32(c.service.MaxHeader)}}
	out := appendFrame(nil, 6*len(settings), frameSettings, 0, 0)
	for _, s := range settings {
		out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(out, s.id), s.value)
	}
	out = appendFrame(out, 4, frameWindowUpdate, 0, 0)
	return c.write(binary.BigEndian.AppendUint32(out, connWindow-defaultWindow))
}

// allowTime limits how long the first frame may take, and how long there may be no stream after it.
func (c *conn) allowTime(first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case first:
		_ = c.SetReadDeadline(time.Now().Add(c.service.HeaderTimeout))
	case len(c.streams) == 0:
		_ = c.SetReadDeadline(time.Now().Add(c.service.IdleTimeout))
	default:
		_ = c.SetReadDeadline(time.Time{})
	}
}

// end ends all streams.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, s := range c.streams {
		s.fail(io.ErrUnexpectedEOF)
	}
	c.changed.Broadcast()
}

// sayGoodbye tells the peer what was its fault.
func (c *conn) sayGoodbye(err error) {
	var fault connError
	if !errors.As(err, &fault) {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(goodbye)) // also for whoever holds up others
	out := appendFrame(nil, 8, frameGoAway, 0, 0)
	out = binary.BigEndian.AppendUint32(out, c.lastID)
	_ = c.write(binary.BigEndian.AppendUint32(out, uint32(fault.code)))
}

// cut ends whoever waits in a write.
func (c *conn) cut() {
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close()
}

// write writes frames that are whole.
func (c *conn) write(out []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.Write(out)
	return err
}

// reset ends a stream, on both sides.
func (c *conn) reset(id uint32, code errorCode) error {
	c.mu.Lock()
	if s := c.streams[id]; s != nil {
		s.fail(io.ErrUnexpectedEOF)
		s.forget()
	}
	c.mu.Unlock()
	return c.write(resetFrame(id, code))
}

func resetFrame(id uint32, code errorCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(nil, 4, frameReset, 0, id), uint32(code))
}
