package channel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The format of a frame. All numbers are big-endian.
//
//	8 bytes  magic
//	1 byte   kind
//	8 bytes  nonce of the session
//	4 bytes  length of the payload
//	         payload
//	8 bytes  nonce of the session again
const (
	headerSize  = 8 + 1 + 8 + 4
	trailerSize = 8

	// MaxPayload is the longest payload that a peer may put into one frame.
	MaxPayload = 64 << 10

	maxFrame = headerSize + MaxPayload + trailerSize

	// sendPayload is the longest payload that this package puts into one. Such a frame is
	// 32 KiB long, the most that Linux's virtio_console takes in one write.
	sendPayload = 32<<10 - headerSize - trailerSize

	// minRead is the least room for a read: virtio_console hands out a page at a time.
	minRead = 4 << 10
)

// magic starts every frame. Its first byte occurs in it once, and in no UTF-8 text; its
// last one is the version of the format.
var magic = [8]byte{0xf5, 'w', 'r', 'e', 'n', 'n', '\n', 1}

// kind says what a frame is for.
type kind byte

const (
	hello kind = 1 + iota // host to guest: a new session begins; no payload
	ack                   // guest to host: the session with this nonce has begun; no payload
	data                  // both ways
)

// nonce names a session. Its last byte on the wire, the lowest one, is never zero: zeros
// can then never complete the trailer of a frame that was cut.
type nonce uint64

func (n nonce) valid() bool { return n&0xff != 0 }

// frame is a decoded frame. Its payload is valid until the next one is decoded.
type frame struct {
	kind    kind
	nonce   nonce
	payload []byte
}

// errFrame says that bytes are no frame, errMagic that not even their beginning is one's: so each session begins, whose padding is skipped.
var (
	errFrame = errors.New("malformed frame")
	errMagic = fmt.Errorf("%w: no magic", errFrame)
)

// appendHeader appends what comes before a payload of the given length to b.
func appendHeader(b []byte, k kind, n nonce, length int) []byte {
	b = append(b, magic[:]...)
	b = append(b, byte(k))
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// appendTrailer appends what comes after the payload to b.
func appendTrailer(b []byte, n nonce) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(n))
}

// bareFrame returns a frame without payload.
func bareFrame(k kind, n nonce) []byte {
	return appendTrailer(appendHeader(nil, k, n, 0), n)
}

// parse decodes the frame at the start of b and returns how long it is, or 0 if b ends
// before the frame does. What cannot become a frame any more is an error as soon as that
// can be seen; the length returned with it is how much of b is certain to be no frame.
func parse(b []byte) (frame, int, error) {
	if n := min(len(b), len(magic)); !bytes.Equal(b[:n], magic[:n]) {
		return frame{}, 0, errMagic
	}
	if len(b) < headerSize {
		return frame{}, 0, nil
	}
	f := frame{kind: kind(b[8]), nonce: nonce(binary.BigEndian.Uint64(b[9:]))}
	length := int(binary.BigEndian.Uint32(b[17:]))
	if err := checkHeader(f, length); err != nil {
		return frame{}, len(magic), err
	}
	size := headerSize + length + trailerSize
	if len(b) < size {
		return frame{}, 0, nil
	}
	if binary.BigEndian.Uint64(b[size-trailerSize:]) != uint64(f.nonce) {
		return frame{}, size, fmt.Errorf("%w: the trailer is not the nonce", errFrame)
	}
	f.payload = b[headerSize : headerSize+length : headerSize+length]
	return f, size, nil
}

// checkHeader refuses a header that no peer sends.
func checkHeader(f frame, length int) error {
	switch {
	case f.kind < hello || f.kind > data:
		return fmt.Errorf("%w: unknown kind %d", errFrame, f.kind)
	case !f.nonce.valid():
		return fmt.Errorf("%w: invalid nonce", errFrame)
	case f.kind != data && length != 0:
		return fmt.Errorf("%w: kind %d with a payload", errFrame, f.kind)
	case length < 0 || length > MaxPayload:
		return fmt.Errorf("%w: payload of %d bytes", errFrame, length)
	}
	return nil
}

// decoder finds frames in a stream of bytes. Whatever the stream holds, it needs one
// buffer of fixed size.
type decoder struct {
	source io.Reader
	buf    []byte // made by the first read
	r, w   int    // buf[r:w] is read and not decoded yet
	lost   bool   // the next frame has to be searched for
}

// next returns the next frame. An error that is errFrame is about the bytes: the decoder
// goes on behind them, searching for the next magic. Any other error is the source's.
func (d *decoder) next() (frame, error) {
	for {
		if d.lost {
			d.seek()
		}
		f, size, err := parse(d.buf[d.r:d.w])
		d.r += size
		if err != nil {
			d.lost = true
			return frame{}, err
		}
		if size > 0 {
			return f, nil
		}
		if err := d.fill(); err != nil {
			return frame{}, err
		}
	}
}

// seek drops bytes up to the next magic, or to what may become one with the next read.
func (d *decoder) seek() {
	unread := d.buf[d.r:d.w]
	i := bytes.Index(unread, magic[:])
	d.lost = i < 0
	if d.lost {
		i = len(unread) - partialMatch(unread, magic[:])
	}
	d.r += i
}

// partialMatch returns the length of the longest end of b that is a beginning of pattern.
func partialMatch(b, pattern []byte) int {
	for n := min(len(b), len(pattern)-1); n > 0; n-- {
		if bytes.HasSuffix(b, pattern[:n]) {
			return n
		}
	}
	return 0
}

// skipTo drops everything up to and including the next occurrence of pattern, without
// regard to frames.
func (d *decoder) skipTo(pattern []byte) error {
	for {
		unread := d.buf[d.r:d.w]
		if i := bytes.Index(unread, pattern); i >= 0 {
			d.r += i + len(pattern)
			d.lost = false
			return nil
		}
		d.r = d.w - partialMatch(unread, pattern)
		if err := d.fill(); err != nil {
			return err
		}
	}
}

// fill reads once from the source.
func (d *decoder) fill() error {
	d.makeRoom()
	for range 100 {
		n, err := d.source.Read(d.buf[d.w:])
		d.w += n
		if n > 0 {
			return nil // a lasting error comes again with the next read
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom makes room for a read behind what is unread. It stays at the start of the
// buffer when it can, so that small frames touch little memory.
func (d *decoder) makeRoom() {
	if d.buf == nil {
		d.buf = make([]byte, maxFrame+minRead)
	}
	if d.r == d.w {
		d.r, d.w = 0, 0
	}
	if len(d.buf)-d.w < minRead {
		d.w = copy(d.buf, d.buf[d.r:d.w])
		d.r = 0
	}
}
