package tunnel

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	pbproto "google.golang.org/protobuf/proto"
)

// codec is gRPC's own for protobuf with another pool. gRPC's clears a buffer each time that it is used again, all of
// it: the 1 MiB of its largest kind for a message of 33 KiB, which takes longer than all else that a tunnel does.
type codec struct{ pool *pool }

// Name implements encoding.CodecV2.
func (codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(pbproto.Message)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Marshal(v) // which says what is wrong with it
	}
	buf := c.pool.Get(pbproto.Size(m))
	if _, err := (pbproto.MarshalOptions{UseCachedSize: true}).MarshalAppend((*buf)[:0], m); err != nil {
		c.pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, c.pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(pbproto.Message)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(c.pool)
	defer buf.Free()
	return pbproto.Unmarshal(buf.ReadOnlyData(), m)
}

// tiers are the sizes of pooled buffers: frames of HTTP/2, what Serve reads of little, and the largest message.
var tiers = [...]int{small + messageOverhead, 16 << 10, MaxData + messageOverhead}

// messageOverhead is more than a message has beside its data.
const messageOverhead = 64

// pool keeps buffers as they are, for whoever writes to them before they are read. What is too large for it is
// made anew each time.
type pool struct{ tier [len(tiers)]sync.Pool }

// Get implements mem.BufferPool.
func (p *pool) Get(length int) *[]byte {
	for i, size := range tiers {
		if length > size {
			continue
		}
		buf, ok := p.tier[i].Get().(*[]byte)
		if !ok {
			made := make([]byte, size)
			buf = &made
		}
		*buf = (*buf)[:length]
		return buf
	}
	made := make([]byte, length)
	return &made
}

// Put implements mem.BufferPool.
func (p *pool) Put(buf *[]byte) {
	for i, size := range tiers {
		if cap(*buf) == size {
			p.tier[i].Put(buf)
			return // from here on it is somebody else's
		}
	}
}

// serverCodec and dialCodec make gRPC use the codec and its pool.
func serverCodec() []grpc.ServerOption {
	p := &pool{}
	return []grpc.ServerOption{experimental.BufferPool(p), grpc.ForceServerCodecV2(codec{p})}
}

func dialCodec() []grpc.DialOption {
	p := &pool{}
	return []grpc.DialOption{experimental.WithBufferPool(p), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{p}))}
}
