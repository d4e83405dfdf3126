package http2

import (
	"context"
	"encoding/binary"
	"io"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// stream is a request and its answer. conn.mu guards what changes.
type stream struct {
	conn   *conn
	id     uint32
	cancel context.CancelFunc

	left       int64 // of the body, by its Content-Length; -1 if that is not known
	body       []byte
	ended      bool  // whether the body has
	failed     error // why there is no more
	answered   bool  // whether the handler has returned
	sendWindow int64
	// receiveWindow and consumed are as those of the connection.
	receiveWindow, consumed int64
}

// open begins a stream and its handler.
func (c *conn) open(id uint32, h *head, ends bool) error {
	ctx, cancel := context.WithCancel(c.ctx)
	s := &stream{conn: c, id: id, cancel: cancel, left: -1, ended: ends, receiveWindow: streamWindow}
	if h.large {
		cancel()
		return c.tooLarge(s)
	}
	r, ok := h.request(ctx, ends)
	if !ok {
		cancel()
		return streamError{id, protocolError}
	}
	if !ends {
		s.left, r.Body = r.ContentLength, body{s}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running >= maxStreams {
		cancel()
		return streamError{id, refusedStream}
	}
	s.sendWindow = c.peerWindow
	c.running++
	c.streams[id] = s
	c.tasks.Go(func() { s.serve(r) })
	return nil
}

// tooLarge answers a head of which too much was forgotten to know what it asks for.
func (c *conn) tooLarge(s *stream) error {
	c.mu.Lock()
	s.sendWindow = c.peerWindow
	c.mu.Unlock()
	w := http.NewResponse(&sender{stream: s}, http.MethodGet)
	w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
	if err := w.Finish(); err != nil || s.ended {
		return err
	}
	return c.reset(s.id, noError)
}

// serve runs the handler and ends the stream.
func (s *stream) serve(r *http.Request) {
	defer s.cancel()
	w := http.NewResponse(&sender{stream: s}, r.Method)
	whole := s.conn.service.Answer(w, r)
	s.conn.mu.Lock()
	s.answered = true
	s.conn.mu.Unlock()
	if whole {
		whole = w.Finish() == nil
	}
	if out := s.finish(whole); out != nil {
		_ = s.conn.write(out) // the connection has ended if this fails
	}
}

// finish forgets the stream, and returns what the peer is to be told about it.
func (s *stream) finish(whole bool) []byte {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	gone := c.streams[s.id] != s || c.ended
	s.forget()
	update := c.update()
	switch {
	case gone:
		return update
	case !whole:
		return append(update, resetFrame(s.id, internalError)...)
	case !s.ended:
		return append(update, resetFrame(s.id, noError)...) // the answer is whole, and the rest of the body of no use
	}
	return update
}

// forget takes the stream from the connection, and what it holds. The caller holds conn.mu.
func (s *stream) forget() {
	if s.conn.streams[s.id] == s {
		if delete(s.conn.streams, s.id); len(s.conn.streams) == 0 {
			_ = s.conn.SetReadDeadline(time.Now().Add(s.conn.service.IdleTimeout)) // of the read under way
		}
	}
	s.conn.consumed += int64(len(s.body))
	s.body = nil
}

// fail makes reads and writes fail. The caller holds conn.mu.
func (s *stream) fail(err error) {
	if s.failed == nil {
		s.failed = err
	}
	s.cancel()
	s.conn.changed.Broadcast()
}

// receive takes a part of the body, which took size bytes of the windows. The caller holds conn.mu.
func (s *stream) receive(data []byte, size int64, ends bool) error {
	s.receiveWindow -= size
	switch {
	case s.ended:
		s.conn.consumed += size
		return streamError{s.id, streamClosed}
	case s.receiveWindow < 0:
		s.conn.consumed += size
		return streamError{s.id, flowControlError}
	}
	if s.left >= 0 {
		if s.left -= int64(len(data)); s.left < 0 || ends && s.left > 0 {
			s.conn.consumed += size
			return streamError{s.id, protocolError}
		}
	}
	padding := size - int64(len(data))
	s.conn.consumed += padding
	s.consumed += padding
	if s.answered {
		s.conn.consumed += int64(len(data))
	} else {
		s.body = append(s.body, data...)
	}
	s.ended = ends
	s.conn.changed.Broadcast()
	return nil
}

// body is the body as a handler reads it.
type body struct{ *stream }

// Close does nothing: what a handler leaves is the server's to end.
func (b body) Close() error { return nil }

// Read implements io.Reader.
func (b body) Read(p []byte) (int, error) {
	n, update, err := b.read(p)
	if writeErr := b.conn.writeIfAny(update); err == nil {
		err = writeErr
	}
	return n, err
}

// read waits for data, and returns what the peer is to be told about windows.
func (b body) read(p []byte) (n int, update []byte, err error) {
	c := b.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b.body) == 0 && !b.ended && b.failed == nil && !b.answered {
		c.changed.Wait()
	}
	switch {
	case b.answered:
		return 0, nil, http.ErrBodyReadAfterClose
	case b.failed != nil && (!b.ended || len(b.body) == 0):
		return 0, nil, b.failed
	case len(b.body) == 0:
		return 0, nil, io.EOF
	}
	n = copy(p, b.body)
	if b.body = b.body[n:]; len(b.body) == 0 {
		b.body = nil
	}
	c.consumed += int64(n)
	b.consumed += int64(n)
	return n, append(c.update(), b.update()...), nil
}

// update is conn.update of the stream's window.
func (s *stream) update() []byte {
	if s.consumed < streamWindow/2 || s.ended {
		return nil
	}
	more := s.consumed
	s.receiveWindow, s.consumed = s.receiveWindow+more, 0
	return binary.BigEndian.AppendUint32(appendFrame(nil, 4, frameWindowUpdate, 0, s.id), uint32(more))
}
