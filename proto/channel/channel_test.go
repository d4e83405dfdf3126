package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"pgregory.net/rapid"
)

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// begin plugs a host in and returns its multiplexer. It tries once only.
func begin(t *testing.T, r *relay) *yamux.Session {
	t.Helper()
	conn := r.plug(t)
	session, err := Host(limited(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	mux, err := Client(session)
	if err != nil {
		t.Fatal(err)
	}
	return mux
}

// dial opens a stream to the echo.
func dial(t *testing.T, mux *yamux.Session) net.Conn {
	t.Helper()
	stream, err := mux.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := Connect(limited(t), stream, 49983); err != nil {
		t.Fatal(err)
	}
	return stream
}

// exchange sends size bytes to the echo and compares what comes back.
func exchange(t *testing.T, stream net.Conn, size int) {
	t.Helper()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	if err := stream.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = stream.Write(want) }()
	got := make([]byte, size)
	if _, err := io.ReadFull(stream, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the echo of %d bytes is not what was sent: %v", size, err)
	}
}

func newEcho(t *testing.T) *relay {
	r := newRelay(t)
	r.group.Go(func() { serveEcho(r) })
	return r
}

func TestStreams(t *testing.T) {
	mux := begin(t, newEcho(t))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			stream := dial(t, mux)
			for _, size := range []int{1, 100, sendPayload - muxHeaderSize, sendPayload, MaxPayload, 3 << 20} {
				exchange(t, stream, size)
			}
			_ = stream.Close()
		})
	}
	group.Wait()
	_ = mux.Close()
}

// Hosts come and go in the middle of transfers both ways; each finds a guest that answers
// at the first attempt.
func TestHostsComeAndGo(t *testing.T) {
	r := newEcho(t)
	for range 30 {
		mux := begin(t, r)
		exchange(t, dial(t, mux), 1000)
		flood := dial(t, mux)
		go func() { _, _ = flood.Write(make([]byte, 1<<20)) }()
		_, _ = io.CopyN(io.Discard, flood, int64(rand.IntN(300_000)))
		_ = mux.Close()
	}
	exchange(t, dial(t, begin(t, r)), 1000)
}

// A host that is gone at once, before the guest has answered, disturbs nobody.
func TestHostsThatGoAtOnce(t *testing.T) {
	r := newEcho(t)
	for range 20 {
		conn := r.plug(t)
		_, _ = conn.Write(padding[:rand.IntN(maxFrame)])
		_, _ = conn.Write(bareFrame(hello, newNonce())[:rand.IntN(30)])
		_ = conn.Close()
	}
	exchange(t, dial(t, begin(t, r)), 1000)
}

// The guest writes to a host that does not read and then goes. The frame in which it is
// stuck must not keep the next host waiting.
func TestGuestStuckInAWrite(t *testing.T) {
	r := newRelay(t)
	guest := NewGuest(r.guest)
	for range 3 {
		conn := r.plug(t)
		began := make(chan *Session, 1)
		go func() {
			session, _ := Host(limited(t), conn)
			began <- session
		}()
		session, err := guest.Accept(limited(t))
		if err != nil {
			t.Fatal(err)
		}
		host := <-began
		if host == nil {
			t.Fatal("the host's handshake failed")
		}
		stuck := make(chan struct{})
		go func() {
			defer close(stuck)
			for {
				if _, err := session.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}()
		if _, err := io.ReadFull(host, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		_ = host.Close()
		_ = session.Close()
		t.Cleanup(func() { <-stuck })
	}
}

// The host drops all that comes before the ACK with its nonce, even the header of a frame
// whose rest was lost, and what comes after is read.
func TestHostDropsWhatIsStale(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		stale := rapid.SliceOf(rapid.OneOf(
			rapid.SliceOfN(rapid.Byte(), 0, 50),
			rapid.Map(rapid.Uint64(), func(n uint64) []byte { return bareFrame(ack, nonce(n)|1) }),
			rapid.Map(rapid.IntRange(0, MaxPayload), func(n int) []byte { return appendHeader(nil, data, 3, n) }),
			rapid.Map(rapid.IntRange(0, 200), func(n int) []byte { return dataFrame(3, make([]byte, n)) }),
		)).Draw(rt, "stale")
		host, guest := net.Pipe()
		defer func() { _, _ = host.Close(), guest.Close() }()
		go answer(guest, bytes.Join(stale, nil))
		session, err := Host(limited(t), host)
		if err != nil {
			rt.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(session, got); err != nil || string(got) != "fresh" {
			rt.Fatalf("read %q, %v", got, err)
		}
	})
}

// answer is a guest that first writes what is stale, then answers the HELLO.
func answer(guest net.Conn, stale []byte) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = guest.Write(stale)
	}()
	d := decoder{source: guest}
	for {
		f, err := d.next()
		if errors.Is(err, errFrame) {
			continue
		}
		if err != nil {
			return
		}
		<-written
		_, _ = guest.Write(append(bareFrame(ack, f.nonce), dataFrame(f.nonce, []byte("fresh"))...))
		return
	}
}

// The handshake ends with its context when the guest does not answer, or not with an ACK.
func TestHostGivesUp(t *testing.T) {
	for name, guest := range map[string]func(net.Conn){
		"silent": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"deaf":   func(net.Conn) {},
		"chatty": func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			for {
				if _, err := c.Write(bareFrame(ack, 77)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, peer := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				guest(peer)
			}()
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			if _, err := Host(ctx, host); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			_, _ = host.Close(), peer.Close()
			<-done
		})
	}
}

func TestHostMeetsAClosedPort(t *testing.T) {
	host, peer := net.Pipe()
	_ = peer.Close()
	if _, err := Host(limited(t), host); err == nil {
		t.Error("no error")
	}
}

// Accept ends with its context while the port is silent, and works afterwards.
func TestAcceptGivesUp(t *testing.T) {
	r := newRelay(t)
	guest := NewGuest(r.guest)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := guest.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	conn := r.plug(t)
	go func() { _, _ = Host(limited(t), conn) }()
	if _, err := guest.Accept(limited(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := guest.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while a session runs: error %v", err)
	}
}

// Closing a session in the guest frees a blocked read and lets the next host in.
func TestCloseFreesARead(t *testing.T) {
	r := newRelay(t)
	guest := NewGuest(r.guest)
	for range 5 {
		conn := r.plug(t)
		go func() { _, _ = Host(limited(t), conn) }()
		session, err := guest.Accept(limited(t))
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() {
			_, err := session.Read(make([]byte, 1))
			read <- err
		}()
		for guest.link.readMu.TryLock() { // until the read has it
			guest.link.readMu.Unlock()
			runtime.Gosched()
		}
		_ = session.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the read ended with %v", err)
		}
		_ = conn.Close()
	}
}
