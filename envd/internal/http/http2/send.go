package http2

import (
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// maxWrite bounds what goes out in one write. Other streams wait for it.
const maxWrite = 64 << 10

var writes = sync.Pool{New: func() any { return new(make([]byte, 0, 8<<10)) }}

// sender is how an answer goes out.
type sender struct{ stream *stream }

// Send implements http.Sender.
func (s *sender) Send(part *http.Part) error {
	spare := writes.Get().(*[]byte)
	defer writes.Put(spare)
	out := (*spare)[:0]
	size := part.Size()
	trailer := part.Trailer
	if part.Head != nil {
		out = s.stream.appendFields(out, part.Last && size == 0 && len(trailer) == 0, headBlock(part.Head))
	}
	out, err := s.stream.sendBody(out, part.Body, part.Last && len(trailer) == 0, part.Head == nil)
	if err == nil && part.Last && len(trailer) > 0 {
		out = s.stream.appendFields(out, true, appendFields(newBlock(), trailer.Fields))
	}
	if err == nil && len(out) > 0 {
		err = s.stream.write(out)
	}
	if cap(out) <= 2*maxWrite {
		*spare = out
	}
	return err
}

// sendBody appends the body's part to out as DATA. What the windows or a write have no room for is waited for, after what is in out
// has been sent. An end without data is a frame of its own if alone.
func (s *stream) sendBody(out []byte, body [2][]byte, last, alone bool) ([]byte, error) {
	size := len(body[0]) + len(body[1])
	if size == 0 && last && alone {
		return appendFrame(out, 0, frameData, flagEndStream, s.id), nil
	}
	for size > 0 {
		n, err := s.reserve(size, len(out) == 0)
		if err != nil {
			return out, err
		}
		if n == 0 || len(out) > 0 && len(out)+n > maxWrite {
			s.giveBack(n)
			if err := s.write(out); err != nil {
				return out, err
			}
			out = out[:0]
			continue
		}
		size -= n
		flags := byte(0)
		if last && size == 0 {
			flags = flagEndStream
		}
		out = appendFrame(out, n, frameData, flags, s.id)
		for i := range body {
			take := min(n, len(body[i]))
			out, body[i], n = append(out, body[i][:take]...), body[i][take:], n-take
		}
	}
	return out, nil
}

// reserve takes up to n bytes, one frame's at most, from the windows. If there is nothing it waits, or returns 0.
func (s *stream) reserve(n int, wait bool) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s.failed != nil {
			return 0, s.failed
		}
		if c.ended {
			return 0, io.ErrClosedPipe
		}
		free := min(int64(n), s.sendWindow, c.sendWindow, c.peerFrame, maxWrite-headerSize)
		if free > 0 {
			s.sendWindow -= free
			c.sendWindow -= free
			return int(free), nil
		}
		if !wait {
			return 0, nil
		}
		c.changed.Wait()
	}
}

func (s *stream) giveBack(n int) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.sendWindow += int64(n)
	s.conn.sendWindow += int64(n)
	s.conn.changed.Broadcast()
}

// write writes frames, unless the stream has ended meanwhile.
func (s *stream) write(out []byte) error {
	s.conn.mu.Lock()
	failed := s.failed
	s.conn.mu.Unlock()
	if failed != nil {
		return failed
	}
	return s.conn.write(out)
}

// appendFields appends HEADERS, and CONTINUATION where one frame does not do.
func (s *stream) appendFields(out []byte, last bool, block []byte) []byte {
	kind, flags := byte(frameHeaders), byte(0)
	if last {
		flags = flagEndStream
	}
	for {
		n := min(len(block), maxFrame) // the peer takes that much in any case
		if n == len(block) {
			flags |= flagEndHeaders
		}
		out = append(appendFrame(out, n, kind, flags, s.id), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return out
		}
		kind, flags = frameContinuation, 0
	}
}

// newBlock begins a block with what says that no table is used (RFC 7541, section 6.3): a peer that makes its table smaller
// waits to hear that from the next block.
func newBlock() []byte { return []byte{0x20} }

// headBlock encodes an answer's head.
func headBlock(head *http.Head) []byte {
	block := appendField(newBlock(), ":status", strconv.Itoa(head.Status))
	block = appendFields(block, head.Fields)
	if head.Header.Get("Date") == "" {
		block = appendField(block, "date", time.Now().UTC().Format(http.TimeFormat))
	}
	return block
}

func appendFields(block []byte, fields func(func(name, value string) bool)) []byte {
	for name, value := range fields {
		block = appendField(block, strings.ToLower(name), value)
	}
	return block
}

// appendField encodes a field as it is, without any table (RFC 7541, section 6.2.2).
func appendField(block []byte, name, value string) []byte {
	block = appendString(append(block, 0), name)
	return appendString(block, value)
}

// appendString encodes a string without compression: its length in the prefixed form of RFC 7541, section 5.1, and itself.
func appendString(block []byte, text string) []byte {
	const prefix = 1<<7 - 1
	n := len(text)
	if n < prefix {
		return append(append(block, byte(n)), text...)
	}
	block = append(block, prefix)
	for n -= prefix; n >= 1<<7; n >>= 7 {
		block = append(block, byte(n)|1<<7)
	}
	return append(append(block, byte(n)), text...)
}
