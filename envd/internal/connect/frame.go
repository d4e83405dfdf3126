package connect

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// The flags of a frame, of which a stream consists: a byte of flags, the length as four bytes, big endian, and the data.
const (
	flagCompressed = 1
	flagEnd        = 2
	frameHeader    = 5
)

// maxMessage bounds one message, compressed or not. It is gRPC's default too.
const maxMessage = 4 << 20

// maxSpare is the largest buffer that is kept for the next message.
const maxSpare = 256 << 10

var errTooLarge = Errorf(ResourceExhausted, "a message is larger than %d bytes", maxMessage)

// buffers are what messages are encoded into. Streams that are silent hold none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// frames reads the messages of a request's stream.
type frames struct {
	body   io.Reader
	gunzip bool // whether Connect-Content-Encoding allows compressed frames
}

// next returns the next message's encoded form, io.EOF after the last.
func (f *frames) next() ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(f.body, header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, cutOff(err)
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > maxMessage {
		return nil, errTooLarge
	}
	data, err := readAtMost(f.body, int64(size))
	if err == nil && len(data) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, cutOff(err)
	}
	return f.open(header[0], data)
}

// cutOff explains why a frame could not be read.
func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return Errorf(InvalidArgument, "the request is cut off")
	}
	return Errorf(Canceled, "the request could not be read: %v", err)
}

func (f *frames) open(flags byte, data []byte) ([]byte, error) {
	switch {
	case flags == 0:
		return data, nil
	case flags != flagCompressed:
		return nil, Errorf(InvalidArgument, "a frame has unknown flags %#x", flags)
	case !f.gunzip:
		return nil, Errorf(InvalidArgument, "a frame is compressed, but Connect-Content-Encoding does not say how")
	}
	return decompress(data)
}

// readAtMost reads up to limit bytes. Memory grows with what arrives, not with what was announced.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	_, err := buf.ReadFrom(io.LimitReader(r, limit))
	return buf.Bytes(), err
}

// decompress bounds what comes out as well.
func decompress(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return data, nil // so the protocol has it
	}
	unzip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, Errorf(InvalidArgument, "a message is not valid gzip")
	}
	plain, err := readAtMost(unzip, maxMessage+1)
	if err != nil {
		return nil, Errorf(InvalidArgument, "a message is not valid gzip")
	}
	if len(plain) > maxMessage {
		return nil, errTooLarge
	}
	return plain, nil
}

// readUnary reads the whole body of a unary call.
func readUnary(r *http.Request) ([]byte, error) {
	data, err := readAtMost(r.Body, maxMessage+1)
	if err != nil {
		return nil, Errorf(Canceled, "the request could not be read: %v", err)
	}
	if len(data) > maxMessage {
		return nil, errTooLarge
	}
	gunzip, err := compression(r.Header.Get("Content-Encoding"))
	if err != nil || !gunzip {
		return data, err
	}
	return decompress(data)
}

// compression reports whether an encoding is gzip, and refuses others.
func compression(encoding string) (bool, error) {
	switch encoding {
	case "", "identity":
		return false, nil
	case "gzip":
		return true, nil
	}
	return false, Errorf(Unimplemented, "unknown compression %.40q: supported encodings are gzip", encoding)
}

// writer sends the frames of an answer, each at once.
type writer struct {
	w     http.ResponseWriter
	codec codec
}

func (s *writer) send(msg any) error {
	return s.frame(0, func(dst []byte) []byte { return s.codec.append(dst, msg) })
}

func (s *writer) end(err *Error, trailer http.Header) {
	body := encodeEnd(err, trailer)
	_ = s.frame(flagEnd, func(dst []byte) []byte { return append(dst, body...) }) // the caller is gone if this fails
}

func (s *writer) frame(flags byte, body func([]byte) []byte) error {
	spare := buffers.Get().(*[]byte)
	frame := body(append((*spare)[:0], flags, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-frameHeader))
	_, err := s.w.Write(frame)
	if cap(frame) <= maxSpare {
		*spare = frame
		buffers.Put(spare)
	}
	if err != nil {
		return err
	}
	return http.Flush(s.w)
}
