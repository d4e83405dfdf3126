// Package http1 serves HTTP/1.1 (RFC 9112) on one connection, and HTTP/1.0 with one request for each.
//
// A connection that waits, for a request or while a handler has nothing to say, holds no buffer. What comes in is read strictly:
// lines end with CR LF, a length is said once and in one way, and names, values and chunks are well-formed, or the
// connection ends.
package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

const (
	// maxDrain is how much of a body that a handler has left is read for the sake of the next request.
	maxDrain = 256 << 10
	// linger is how long a peer that still sends may take to read an answer after which the connection is closed.
	linger = 500 * time.Millisecond
)

// past is a deadline that ends a read under way.
var past = time.Unix(1, 0)

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// conn is a connection. But for what the fields say, it belongs to the goroutine that serves it and runs its handlers.
type conn struct {
	net.Conn
	service *http.Service
	ctx     context.Context
	early   []byte        // what was read before, and comes first
	reader  *bufio.Reader // nil while it would be empty

	first    [1]byte       // what watch has read
	watching chan struct{} // closed by watch when it has ended; nil if there is none
	watched  error         // what it met; nil if it has read a byte
	stopping atomic.Bool   // whether its deadline is set to end it
	taken    bool          // whether a handler has taken the connection
	onTake   func()
}

// Serve answers what comes in on c until either side ends it, and closes it. If a handler takes it over instead, taken is
// called. early has been read from it already.
func Serve(ctx context.Context, c net.Conn, early []byte, service *http.Service, taken func()) {
	conn := &conn{Conn: c, service: service, ctx: ctx, early: early, onTake: taken}
	defer conn.release()
	for conn.serveOne() && conn.await() {
	}
	if !conn.taken {
		_ = c.SetReadDeadline(past) // some connections' Close ends only their writes
		_ = c.Close()
		_ = conn.unwatch()
	}
}

// serveOne answers one request and reports whether there may be another.
func (c *conn) serveOne() bool {
	_ = c.SetReadDeadline(time.Now().Add(c.service.HeaderTimeout))
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	r, err := c.readRequest(ctx)
	if err != nil {
		c.refuse(err)
		return false
	}
	_ = c.SetReadDeadline(time.Time{})
	return c.answer(r, cancel)
}

// refuse tells the peer what is wrong with its request, if it is there.
func (c *conn) refuse(err error) {
	var bad *badRequest
	if !errors.As(err, &bad) {
		return
	}
	text := "HTTP/1.1 " + statusLine(bad.status) + "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" + bad.text + "\n"
	if _, err := io.WriteString(c, text); err == nil {
		c.lingerOn()
	}
}

// answer reports whether the connection can be used again.
func (c *conn) answer(r *request, cancel context.CancelFunc) bool {
	body := &body{conn: c, src: r.body, expects: r.expects, ended: r.body == nil, gone: cancel}
	if !body.ended {
		r.Body = body
	} else {
		c.watch(cancel)
	}
	out := &sender{conn: c, body: body, close: r.close, old: r.old, cancel: cancel}
	w := http.NewResponse(out, r.Method)
	whole := c.service.Answer(w, r.Request)
	body.end()
	switch {
	case c.taken:
		return false
	case !whole, w.Finish() != nil:
		return false
	case !out.close && body.drain():
		return true
	}
	c.lingerOn()
	return false
}

// lingerOn closes the connection for writing and goes on reading for a moment: to close it at once would take an answer away
// from a peer that still sends (RFC 9112, section 9.6).
func (c *conn) lingerOn() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(linger))
	_ = c.unwatch()
	for discard := c.buffer(); ; {
		if n, err := discard.Discard(discard.Size()); n == 0 || err != nil {
			return
		}
	}
}

// await waits for the next request.
func (c *conn) await() bool {
	if c.reader != nil && c.reader.Buffered() > 0 {
		return true
	}
	c.release()
	_ = c.SetReadDeadline(time.Now().Add(c.service.IdleTimeout))
	c.watch(func() {})
	return c.unwatch() == nil
}

// watch reads the next byte in the background. If the peer has gone away instead, it calls gone.
func (c *conn) watch(gone func()) {
	if c.watching != nil || len(c.early) > 0 {
		return
	}
	done := make(chan struct{})
	c.watching = done
	go func() {
		defer close(done)
		n, err := c.Conn.Read(c.first[:])
		if n > 0 {
			err = nil
		}
		if c.watched = err; err != nil && !c.stopping.Load() {
			gone()
		}
	}()
}

// unwatch waits for watch to end. What it has read comes first again.
func (c *conn) unwatch() error {
	if c.watching == nil {
		return nil
	}
	<-c.watching
	c.watching = nil
	if c.watched == nil {
		c.early = append(c.early, c.first[0])
	}
	return c.watched
}

// Read reads what comes in, in order. It is for the buffer.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		if err := c.unwatch(); err != nil {
			return 0, err
		}
	}
	if len(c.early) > 0 {
		n := copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// buffer returns the connection's buffer, which it takes if it has none.
func (c *conn) buffer() *bufio.Reader {
	if c.reader == nil {
		c.reader = readers.Get().(*bufio.Reader)
		c.reader.Reset(c)
	}
	return c.reader
}

// release gives the buffer back, with what is in it.
func (c *conn) release() {
	if c.reader != nil {
		c.reader.Reset(nil)
		readers.Put(c.reader)
		c.reader = nil
	}
}

// shrink gives the buffer back if it is empty.
func (c *conn) shrink() {
	if c.reader != nil && c.reader.Buffered() == 0 {
		c.release()
	}
}

// take gives the connection to a handler, with what has come in already.
func (c *conn) take() (net.Conn, []byte, error) {
	c.stopping.Store(true)
	_ = c.SetReadDeadline(past)
	err := c.unwatch()
	c.stopping.Store(false)
	if err != nil && !isTimeout(err) && !errors.Is(err, io.EOF) { // the handler reads the peer's end for itself
		return nil, nil, err
	}
	_ = c.SetReadDeadline(time.Time{})
	var early []byte
	if c.reader != nil {
		early, _ = c.reader.Peek(c.reader.Buffered()) // it is there
	}
	early = append(append([]byte{}, early...), c.early...)
	c.early, c.taken = nil, true
	c.release()
	c.onTake()
	return c.Conn, early, nil
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
