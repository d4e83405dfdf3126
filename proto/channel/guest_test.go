package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// script is a guest's port on which all that hosts will ever write is known from the
// start. Its end is the port's failure.
type script struct {
	input  []byte
	chunks func(available int) int // how much the next read returns
	output bytes.Buffer
}

var errUnplugged = errors.New("port unplugged")

func (s *script) Read(p []byte) (int, error) {
	if len(s.input) == 0 {
		return 0, errUnplugged
	}
	n := copy(p, s.input[:min(len(s.input), s.chunks(len(s.input)))])
	s.input = s.input[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.output.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// dataFrame returns a DATA frame as any peer may send it.
func dataFrame(n nonce, payload []byte) []byte {
	return appendTrailer(append(appendHeader(nil, data, n, len(payload)), payload...), n)
}

// host is what one host writes to the port before it dies.
type host struct {
	nonce    nonce
	payloads [][]byte
	cut      int // how much of it gets into the port
}

func (h host) frames() []byte {
	b := append(bytes.Clone(padding[:]), bareFrame(hello, h.nonce)...)
	for _, p := range h.payloads {
		b = append(b, dataFrame(h.nonce, p)...)
	}
	return b
}

// delivered is what a guest must read of it: the payloads of whole frames. The second
// result is whether the HELLO is whole.
func (h host) delivered() ([]byte, bool) {
	end := maxFrame + headerSize + trailerSize
	if h.cut < end {
		return nil, false
	}
	got := []byte{}
	for _, p := range h.payloads {
		end += headerSize + len(p) + trailerSize
		if h.cut >= end {
			got = append(got, p...)
		}
	}
	return got, true
}

// play lets the guest accept one session after the other and compares them with hosts.
func play(t rapid.TB, hosts []host, chunks func(int) int) {
	port := &script{chunks: chunks}
	for _, h := range hosts {
		port.input = append(port.input, h.frames()[:h.cut]...)
	}
	guest := NewGuest(port)
	var acks []byte
	for i, h := range hosts {
		want, ok := h.delivered()
		if !ok {
			continue
		}
		session, err := guest.Accept(context.Background())
		if err != nil {
			t.Fatalf("host %d of %d: %v", i, len(hosts), err)
		}
		acks = append(acks, bareFrame(ack, h.nonce)...)
		got, err := io.ReadAll(session)
		if !bytes.Equal(got, want) {
			t.Fatalf("host %d of %d, cut after %d bytes: read %q, want %q", i, len(hosts), h.cut, got, want)
		}
		if err != nil && !errors.Is(err, ErrProtocol) && !errors.Is(err, errUnplugged) {
			t.Fatalf("host %d of %d: the session ended with %v", i, len(hosts), err)
		}
	}
	if _, err := guest.Accept(context.Background()); !errors.Is(err, errUnplugged) {
		t.Fatalf("after the last host: %v", err)
	}
	if !bytes.Equal(port.output.Bytes(), acks) {
		t.Fatalf("the guest wrote %x, want %x", port.output.Bytes(), acks)
	}
	if size := len(guest.link.dec.buf); size != maxFrame+minRead {
		t.Fatalf("the decoder's buffer has %d bytes", size)
	}
}

func all(available int) int { return available }

// A host dies after each possible number of bytes; the next one must find a guest that
// delivered whole frames only and that begins a new session at the first HELLO. Payloads
// of zeros are what the next host's zeros could complete.
func TestHostCutAtEveryByte(t *testing.T) {
	first := host{nonce: 0x1111_0000_0000_0001, payloads: [][]byte{[]byte("first"), make([]byte, 20), {0}, []byte("last")}}
	second := host{nonce: 0x2222_0000_0000_0002, payloads: [][]byte{[]byte("second")}}
	second.cut = len(second.frames())
	for cut := maxFrame; cut <= len(first.frames()); cut++ {
		first.cut = cut
		play(t, []host{first, second}, all)
		play(t, []host{first, second}, func(int) int { return 4096 })
	}
}

// The same, but the second host dies too, at every byte of its zeros' end and its HELLO.
func TestTwoQuickReconnects(t *testing.T) {
	first := host{nonce: 0x1111_0000_0000_0001, payloads: [][]byte{make([]byte, 100)}}
	third := host{nonce: 0x3333_0000_0000_0003, payloads: [][]byte{[]byte("third")}}
	third.cut = len(third.frames())
	second := host{nonce: 0x2222_0000_0000_0002}
	for cut := maxFrame - 40; cut <= len(second.frames()); cut++ {
		second.cut = cut
		for _, firstCut := range []int{len(first.frames()), len(first.frames()) - 1, maxFrame + headerSize + trailerSize + 10} {
			first.cut = firstCut
			play(t, []host{first, second, third}, all)
		}
	}
}

func TestByteByByte(t *testing.T) {
	h := host{nonce: 7, payloads: [][]byte{[]byte("one"), {}, []byte("two")}}
	h.cut = len(h.frames())
	play(t, []host{h, {nonce: 9, cut: maxFrame + 29}}, func(int) int { return 1 })
}

// A half-written frame that zeros complete is never delivered: not with a payload of
// zeros, and not when only the last byte of the trailer is missing.
func TestZerosCompleteNothing(t *testing.T) {
	const n nonce = 0x4242_4242_4242_4201
	whole := dataFrame(n, make([]byte, 64))
	for cut := range whole {
		completed := append(bytes.Clone(whole[:cut]), padding[:]...)
		d := decoder{source: bytes.NewReader(completed)}
		for {
			f, err := d.next()
			if errors.Is(err, errFrame) {
				continue
			}
			if err == nil {
				t.Fatalf("cut after %d bytes: decoded %+v", cut, f)
			}
			break
		}
	}
}

// anyHosts draws hosts, some of which send what looks like frames inside frames.
func anyHosts(t *rapid.T) []host {
	payload := rapid.OneOf(
		rapid.SliceOfN(rapid.Byte(), 0, 100),
		rapid.Map(rapid.IntRange(0, MaxPayload), func(n int) []byte { return make([]byte, n) }),
		rapid.Map(rapid.Uint64(), func(n uint64) []byte { return bareFrame(hello, nonce(n)|1) }),
		rapid.Map(rapid.Uint64(), func(n uint64) []byte { return appendHeader(nil, data, nonce(n)|1, MaxPayload) }),
		rapid.Just(magic[:]),
	)
	hosts := make([]host, rapid.IntRange(1, 5).Draw(t, "hosts"))
	for i := range hosts {
		h := host{nonce: nonce(uint64(i+1)<<32 | 1), payloads: rapid.SliceOfN(payload, 0, 5).Draw(t, "payloads")}
		length := len(h.frames())
		h.cut = length
		if i < len(hosts)-1 {
			h.cut = rapid.OneOf(rapid.Just(length), rapid.IntRange(0, length), rapid.IntRange(maxFrame, length)).Draw(t, "cut")
		}
		hosts[i] = h
	}
	return hosts
}

func TestAnyHosts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SampledFrom([]int{1000, 4096, 5000, 1 << 20}).Draw(t, "chunk")
		play(t, anyHosts(t), func(int) int { return sizes })
	})
}

// Wrong frames end the session, whatever is wrong with them, and the next HELLO is heard.
func TestWrongFramesEndTheSession(t *testing.T) {
	const n nonce = 0x55
	badTrailer := dataFrame(n, []byte("x"))
	badTrailer[len(badTrailer)-1] ^= 1
	long := dataFrame(n, make([]byte, MaxPayload+1))
	huge := appendHeader(nil, data, n, 1<<32-1)
	for name, wrong := range map[string][]byte{
		"bad trailer":       badTrailer,
		"no magic":          []byte("GET / HTTP/1.1\r\n"),
		"another session":   dataFrame(n+1, []byte("x")),
		"unknown kind":      bareFrame(data+1, n),
		"ACK from a host":   bareFrame(ack, n),
		"payload too long":  long,
		"payload of 4 GiB":  huge,
		"HELLO with a text": append(appendHeader(nil, hello, n, 1), appendTrailer([]byte("x"), n)...),
		"invalid nonce":     bareFrame(hello, 0x100),
	} {
		t.Run(name, func(t *testing.T) {
			var input []byte
			input = append(input, bareFrame(hello, n)...)
			input = append(input, dataFrame(n, []byte("good"))...)
			input = append(input, wrong...)
			input = append(input, dataFrame(n, []byte("late"))...)
			input = append(input, padding[:]...)
			input = append(input, bareFrame(hello, 0x66)...)
			guest := NewGuest(&script{input: input, chunks: all})
			session, err := guest.Accept(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(session); string(got) != "good" || !errors.Is(err, ErrProtocol) {
				t.Errorf("read %q, %v", got, err)
			}
			if _, err := session.Write([]byte("x")); !errors.Is(err, ErrProtocol) {
				t.Errorf("write afterwards: %v", err)
			}
			if next, err := guest.Accept(context.Background()); err != nil || next.nonce != 0x66 {
				t.Errorf("the next HELLO: %v", err)
			}
		})
	}
}

// A HELLO that follows a whole frame ends the session like any other, and is answered.
func TestHelloWithinASession(t *testing.T) {
	input := append(bareFrame(hello, 0x11), dataFrame(0x11, []byte("first"))...)
	input = append(append(input, bareFrame(hello, 0x22)...), dataFrame(0x22, []byte("second"))...)
	guest := NewGuest(&script{input: input, chunks: all})
	for _, want := range []string{"first", "second"} {
		session, err := guest.Accept(context.Background())
		if err != nil {
			t.Fatalf("before %q: %v", want, err)
		}
		if got, _ := io.ReadAll(session); string(got) != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
}

// What is searched for may come in two reads, and after what looks like its beginning.
func TestSkipTo(t *testing.T) {
	pattern := bareFrame(ack, 0x33)
	input := append(bytes.Clone(pattern[:20]), pattern[:28]...)
	input = append(append(input, pattern...), dataFrame(0x33, []byte("next"))...)
	for chunk := 1; chunk <= len(input); chunk++ {
		d := decoder{source: &script{input: input, chunks: func(int) int { return chunk }}}
		if err := d.skipTo(pattern); err != nil {
			t.Fatalf("%d bytes at a time: %v", chunk, err)
		}
		if f, err := d.next(); err != nil || string(f.payload) != "next" {
			t.Fatalf("%d bytes at a time: %+v, %v", chunk, f, err)
		}
	}
}
