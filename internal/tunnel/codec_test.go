package tunnel

import (
	"bytes"
	"crypto/rand"
	"testing"

	"google.golang.org/grpc/mem"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// TestCodec: what a buffer held before is in no message that it carries later.
func TestCodec(t *testing.T) {
	c := codec{&pool{}}
	for range 3 {
		for _, size := range []int{0, 1, small, 16 << 10, 64 << 10, MaxData, 2 * MaxData, 5} {
			data := make([]byte, size)
			rand.Read(data)
			wire, err := c.Marshal(&pb.TunnelRequest{Data: data})
			if err != nil {
				t.Fatal(err)
			}
			got := pb.TunnelRequest{SandboxId: "what was there before"}
			if err := c.Unmarshal(wire, &got); err != nil || !bytes.Equal(got.GetData(), data) || got.GetSandboxId() != "" {
				t.Errorf("%d bytes became %d, and the sandbox %q; %v", size, len(got.GetData()), got.GetSandboxId(), err)
			}
			wire.Free()
		}
	}
	if _, err := c.Marshal("no message"); err == nil {
		t.Error("a string became a message")
	}
	if err := c.Unmarshal(mem.BufferSlice{}, new(string)); err == nil {
		t.Error("a message became a string")
	}
}

// TestPool: a buffer is used again, for whatever is not longer than it, and memory is not kept for what is larger than any message.
func TestPool(t *testing.T) {
	p := &pool{}
	for _, length := range []int{0, 1, small, tiers[0] + 1, 16 << 10, 16<<10 + 1, tiers[2], tiers[2] + 1} {
		buf := p.Get(length)
		if len(*buf) != length || cap(*buf) > max(length, tiers[2]) {
			t.Errorf("a buffer for %d bytes has %d and room for %d", length, len(*buf), cap(*buf))
		}
		p.Put(buf)
	}
}
