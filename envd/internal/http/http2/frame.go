package http2

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The kinds of frames (RFC 9113, section 6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

// The flags of frames; ACK is that of SETTINGS and PING.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// errorCode says why a stream or a connection ends (section 7).
type errorCode uint32

const (
	noError          errorCode = 0
	protocolError    errorCode = 1
	internalError    errorCode = 2
	flowControlError errorCode = 3
	streamClosed     errorCode = 5
	frameSizeError   errorCode = 6
	refusedStream    errorCode = 7
	compressionError errorCode = 9
	enhanceYourCalm  errorCode = 11
)

// connError ends the connection, streamError a stream. Both are the peer's fault.
type (
	connError struct {
		code errorCode
		text string
	}
	streamError struct {
		stream uint32
		code   errorCode
	}
)

func (e connError) Error() string { return fmt.Sprintf("HTTP/2 error %d: %s", e.code, e.text) }
func (e streamError) Error() string {
	return fmt.Sprintf("HTTP/2 stream %d: error %d", e.stream, e.code)
}

const (
	headerSize = 9
	// maxFrame is the largest frame that is taken: the least that an endpoint may allow (section 4.2).
	maxFrame = 16 << 10
	// maxWindow is the largest window (section 6.9.1).
	maxWindow = 1<<31 - 1
)

// frame is a frame as it came in.
type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte // valid until the next one is read
}

func (f *frame) has(flag byte) bool { return f.flags&flag != 0 }

// readFrame reads a frame, of which buf holds the payload.
func readFrame(r io.Reader, buf *[maxFrame]byte) (*frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size := uint32(header[0])<<16 | uint32(header[1])<<8 | uint32(header[2])
	if size > maxFrame {
		return nil, connError{frameSizeError, "a frame is too large"}
	}
	f := &frame{kind: header[3], flags: header[4], stream: binary.BigEndian.Uint32(header[5:]) &^ (1 << 31), payload: buf[:size]}
	_, err := io.ReadFull(r, f.payload)
	return f, err
}

// appendFrame appends a frame's header, which a payload of that size follows.
func appendFrame(out []byte, size int, kind, flags byte, stream uint32) []byte {
	out = append(out, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	return binary.BigEndian.AppendUint32(out, stream)
}

// unpad takes the padding away, if there is any.
func (f *frame) unpad() error {
	if !f.has(flagPadded) {
		return nil
	}
	if len(f.payload) == 0 || int(f.payload[0]) >= len(f.payload) {
		return connError{protocolError, "a frame has more padding than content"}
	}
	f.payload = f.payload[1 : len(f.payload)-int(f.payload[0])]
	return nil
}
