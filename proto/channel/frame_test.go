package channel

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		n := nonce(rapid.Uint64().Filter(func(n uint64) bool { return n&0xff != 0 }).Draw(t, "nonce"))
		b := dataFrame(n, payload)
		for cut := range b {
			if _, size, err := parse(b[:cut]); size != 0 || err != nil {
				t.Fatalf("%d of %d bytes: size %d, %v", cut, len(b), size, err)
			}
		}
		f, size, err := parse(append(b, 1, 2, 3))
		if err != nil || size != len(b) || f.kind != data || f.nonce != n || !bytes.Equal(f.payload, payload) {
			t.Fatalf("frame %+v, size %d, %v", f, size, err)
		}
	})
}

// The first byte of the magic must occur in it once: the search for it relies on that.
func TestMagicDoesNotOverlapItself(t *testing.T) {
	if bytes.Count(magic[:], magic[:1]) != 1 {
		t.Errorf("magic %x", magic)
	}
}

// FuzzDecoder feeds any bytes. Whatever is decoded must stand in the input, in order and
// without overlap, and every byte must be used up.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{}, uint16(1))
	f.Add(bareFrame(hello, 0x1234567812345678), uint16(3))
	f.Add(append(padding[:100:100], bareFrame(hello, 1)...), uint16(4096))
	f.Add(append(dataFrame(5, []byte("payload")), dataFrame(5, magic[:])...), uint16(10))
	f.Add(append(dataFrame(5, make([]byte, 40))[:50], bareFrame(ack, 5)...), uint16(7))
	f.Add(append(appendHeader(nil, data, 5, MaxPayload+1), bareFrame(hello, 9)...), uint16(100))
	f.Add(append(magic[:7:7], bareFrame(hello, 9)...), uint16(2))
	f.Fuzz(func(t *testing.T, input []byte, chunk uint16) {
		port := &script{input: input, chunks: func(int) int { return int(chunk) + 1 }}
		d := decoder{source: port}
		rest := input
		for {
			frame, err := d.next()
			if errors.Is(err, errFrame) {
				continue
			}
			if err != nil {
				break
			}
			encoded := appendTrailer(append(appendHeader(nil, frame.kind, frame.nonce, len(frame.payload)), frame.payload...), frame.nonce)
			i := bytes.Index(rest, encoded)
			if i < 0 {
				t.Fatalf("decoded %x, which is not in the rest of the input", encoded)
			}
			rest = rest[i+len(encoded):]
		}
		if len(port.input) != 0 {
			t.Fatalf("%d bytes were not read", len(port.input))
		}
		if len(d.buf) > maxFrame+minRead {
			t.Fatalf("the buffer has %d bytes", len(d.buf))
		}
	})
}

// FuzzConnect feeds any bytes to both ends of the stream handshake.
func FuzzConnect(f *testing.F) {
	for _, seed := range []string{"CONNECT 49983\n", "OK 49983\n", "ERR no such port\n", "CONNECT -1\n", "OK \n", "\n", "CONNECT 1", string(make([]byte, 300))} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		line, err := readLine(bytes.NewReader(input))
		if err != nil {
			return
		}
		if len(line) > maxLine || !bytes.HasPrefix(input, []byte(line+"\n")) {
			t.Fatalf("read %q of %q", line, input)
		}
	})
}
