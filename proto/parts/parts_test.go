package parts_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/proto/parts"
)

const patience = time.Minute

// pair returns both ends of a connection, without and with parts.
func pair(t *testing.T) (plain net.Conn, conn *parts.Conn) {
	t.Helper()
	plain, other := net.Pipe()
	t.Cleanup(func() { _, _ = plain.Close(), other.Close() })
	for _, c := range []net.Conn{plain, other} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return plain, parts.New(other, nil)
}

// TestBothWays: each direction carries any size, and ends without the other.
func TestBothWays(t *testing.T) {
	plain, b := pair(t)
	a := parts.New(plain, nil)
	want := make([]byte, 3*parts.MaxData+1)
	_, _ = rand.Read(want)
	for range 2 {
		sent := make(chan error, 1)
		go func() {
			_, err := a.Write(want)
			sent <- errors.Join(err, a.CloseWrite())
		}()
		got, err := io.ReadAll(b)
		if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d came, or others, %v", len(got), len(want), err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %d, %v", n, err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		if err := a.CloseWrite(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("CloseWrite again: %v", err)
		}
		a, b = b, a
	}
}

// TestWire: a part is its length and its data; nothing is not the end.
func TestWire(t *testing.T) {
	plain, c := pair(t)
	go func() {
		_, _ = c.Write(nil)
		_ = c.WritePart([]byte("....ab"))
		_ = c.WritePart(make([]byte, parts.Header))
		_ = c.CloseWrite()
	}()
	got := make([]byte, 10)
	if _, err := io.ReadFull(plain, got); err != nil || string(got) != "\x00\x00\x00\x02ab\x00\x00\x00\x00" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestEarly: what was read before the connection had parts is read first.
func TestEarly(t *testing.T) {
	plain, other := net.Pipe()
	defer func() { _, _ = plain.Close(), other.Close() }()
	c := parts.New(other, []byte("\x00\x00\x00\x02a"))
	go func() { _, _ = plain.Write([]byte("b\x00\x00\x00\x00")) }()
	if got, err := io.ReadAll(c); string(got) != "ab" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestBrokenOff: a connection that ends without having said so is no end of data.
func TestBrokenOff(t *testing.T) {
	for _, sent := range []string{"", "\x00", "\x00\x00\x00\x02", "\x00\x00\x00\x02a", "\x00\x00\x00\x01a"} {
		plain, c := pair(t)
		go func() {
			_, _ = plain.Write([]byte(sent))
			_ = plain.Close()
		}()
		if _, err := io.ReadAll(c); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %q: %v", sent, err)
		}
	}
}

// TestTooLarge: a peer cannot announce more than a part has.
func TestTooLarge(t *testing.T) {
	plain, c := pair(t)
	go func() { _, _ = plain.Write(binary.BigEndian.AppendUint32(nil, parts.MaxData+1)) }()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, parts.ErrProtocol) {
		t.Error(err)
	}
}

// TestDeadlines: a Read that one ends goes on later; a Write that one ends is the last.
func TestDeadlines(t *testing.T) {
	plain, c := pair(t)
	buf := make([]byte, 2)
	for _, piece := range []string{"\x00\x00", "\x00\x02", "a"} {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		go func() { _, _ = plain.Write([]byte(piece)) }()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := c.Read(buf); n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q: %d, %v", buf, n, err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	go func() { _, _ = plain.Write([]byte("b\x00\x00\x00\x00")) }()
	if rest, err := io.ReadAll(c); err != nil || rest[len(rest)-1] != 'b' {
		t.Errorf("%q, %v", rest, err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(-time.Second))
	for range 2 {
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		_ = c.SetWriteDeadline(time.Time{})
	}
}
