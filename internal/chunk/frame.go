package chunk

import (
	"errors"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// maxOverhead is how much longer than its content a frame may be, if that cannot be compressed.
const maxOverhead = 4096

// encoder compresses with zstd's level 1 and its own checksum. One of it works for all at the same time.
var encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))
})

func compress(plain []byte) ([]byte, error) {
	e, err := encoder()
	if err != nil {
		return nil, err
	}
	return e.EncodeAll(plain, make([]byte, 0, len(plain)/2)), nil
}

// decoder allows no more than maxRoot of output.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRoot))
})

// decompress returns the content of one frame, which says how long it is: not more than limit.
func decompress(frame []byte, limit int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return nil, err
	}
	if !h.HasFCS || h.FrameContentSize > uint64(limit) {
		return nil, errors.New("it does not say its length, or a longer one than is allowed")
	}
	d, err := decoder()
	if err != nil {
		return nil, err
	}
	plain, err := d.DecodeAll(frame, make([]byte, 0, h.FrameContentSize))
	if err == nil && uint64(len(plain)) != h.FrameContentSize {
		err = errors.New("it has another length than it says")
	}
	return plain, err
}
