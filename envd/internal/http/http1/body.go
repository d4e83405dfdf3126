package http1

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// body is a request's body as a handler reads it.
type body struct {
	conn *conn
	gone func() // called when the peer goes away after the body's end

	mu      sync.Mutex
	src     io.Reader
	expects bool // whether the peer waits for 100 still
	begun   bool // whether the answer has, after which 100 is not sent any more
	ended   bool // whether all of it has been read
	closed  bool
	failed  error
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.failed != nil:
		return 0, b.failed
	case b.ended:
		return 0, io.EOF
	}
	if b.expects {
		if b.begun {
			return 0, errors.New("the answer came before the body was asked for")
		}
		b.expects = false
		if _, err := io.WriteString(b.conn.Conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			b.failed = err
			return 0, err
		}
	}
	n, err := b.src.Read(p)
	if err != nil {
		b.over(err)
	}
	return n, err
}

// over notes the end of the body, from which on the peer is watched.
func (b *body) over(err error) {
	if !errors.Is(err, io.EOF) {
		b.failed = err
		return
	}
	b.ended = true
	b.conn.shrink()
	b.conn.watch(b.gone)
}

// Close does nothing: what a handler leaves is the server's to read.
func (b *body) Close() error { return nil }

// end takes the body away from the handler.
func (b *body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// answered notes that the answer begins, and reports whether the connection can be used after it, as far as is known.
func (b *body) answered() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun = true
	if b.ended {
		return true
	}
	if b.expects || b.failed != nil {
		return false
	}
	if left, sized := b.src.(*fixed); sized {
		return left.left <= maxDrain
	}
	return b.skim()
}

// skim reads what has come in already of a body whose length is unknown, and reports whether that was the rest. Of more, nobody
// knows how much: the connection ends, and the answer must say so.
func (b *body) skim() bool {
	_ = b.conn.SetReadDeadline(past)
	_, _ = io.Copy(io.Discard, io.LimitReader(b.src, maxDrain)) // its outcome is what the next read says
	var next [1]byte
	_, err := b.src.Read(next[:])
	_ = b.conn.SetReadDeadline(time.Time{}) // before the peer is watched
	if !errors.Is(err, io.EOF) {
		return false
	}
	b.over(io.EOF)
	return true
}

// drain reads what the handler has left, if that is little, and reports whether the next request is next.
func (b *body) drain() bool {
	if b.ended {
		return true
	}
	if b.expects || b.failed != nil {
		return false
	}
	_ = b.conn.SetReadDeadline(time.Now().Add(b.conn.service.HeaderTimeout))
	n, err := io.Copy(io.Discard, io.LimitReader(b.src, maxDrain+1))
	return err == nil && n <= maxDrain
}

// fixed is a body whose length is known.
type fixed struct {
	r    *bufio.Reader
	left int64
}

func (f *fixed) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > f.left {
		p = p[:f.left]
	}
	n, err := f.r.Read(p)
	f.left -= int64(n)
	switch {
	case f.left == 0:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// maxChunkLine bounds what there may be beside a chunk's data, and maxTrailer what there may be after the last.
const maxChunkLine, maxTrailer = 256, 4 << 10

var errChunk = errors.New("malformed chunked encoding")

// chunked is a body in chunks (RFC 9112, section 7.1). Extensions and trailers are read and forgotten.
type chunked struct {
	r     *bufio.Reader
	left  uint64 // of the chunk
	inner bool   // whether the chunk's end is to be read before the next one
	err   error
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	if c.left == 0 {
		if c.err = c.next(); c.err != nil {
			return 0, c.err
		}
	}
	if uint64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= uint64(n)
	if err != nil {
		c.err = unexpected(err)
	}
	return n, c.err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads up to the data of the next chunk. After the last it returns io.EOF.
func (c *chunked) next() error {
	if c.inner {
		if text, err := c.line(maxChunkLine); err != nil || text != "" {
			return cmp.Or(err, errChunk)
		}
	}
	text, err := c.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(text, ";")
	size = strings.TrimRight(size, " \t")
	if c.left, err = strconv.ParseUint(size, 16, 63); err != nil || !http.ValidValue(text) {
		return errChunk
	}
	if c.inner = true; c.left > 0 {
		return nil
	}
	return c.trailer()
}

func (c *chunked) trailer() error {
	for left := maxTrailer; ; {
		text, err := c.line(left)
		switch {
		case err != nil:
			return err
		case text == "":
			return io.EOF
		}
		if _, _, ok := parseField(text); !ok {
			return errChunk
		}
		left -= len(text) + len("\r\n")
	}
}

// line returns a line without its end.
func (c *chunked) line(limit int) (string, error) {
	in := &lines{r: c.r, left: limit}
	text, err := in.next()
	var bad *badRequest
	if errors.As(err, &bad) {
		return "", errChunk
	}
	return text, unexpected(err)
}
