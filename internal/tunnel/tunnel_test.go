package tunnel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = time.Minute

// rig is a server whose tunnels lead to a listener, where the tests are the guest.
type rig struct {
	testing.TB
	server *tunnel.Server
	agent  net.Addr
	guest  net.Listener
	ends   chan error // what each Carry returned
}

// newRig listens on a unix socket, or on TCP.
func newRig(t testing.TB, network string) *rig {
	t.Helper()
	r := &rig{TB: t, ends: make(chan error, 10_000), guest: listen(t, "tcp")}
	r.server = tunnel.NewServer(grpc.NewServer(), r.tunnel, slog.New(slog.DiscardHandler))
	l := listen(t, network)
	r.agent = l.Addr()
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	t.Cleanup(func() {
		r.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = r.guest.Close()
	})
	return r
}

func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "tunnel-") // t.TempDir may be too long for a unix socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// both runs a test over each kind of connection.
func both(t *testing.T, test func(*testing.T, *rig)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) { test(t, newRig(t, network)) })
	}
}

// tunnel refuses sandboxes whose name is a reason to.
func (r *rig) tunnel(ctx context.Context, t *tunnel.Tunnel) error {
	switch t.Sandbox {
	case "absent":
		return models.Errorf(models.NotFound, "there is no such sandbox").WithHint("look again")
	case "slow":
		<-ctx.Done()
		r.ends <- context.Cause(ctx)
		return ctx.Err()
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.guest.Addr().String())
	if err == nil {
		err = t.Carry(conn)
	}
	r.ends <- err
	return err
}

// dial connects to the agent.
func (r *rig) dial() net.Conn {
	r.Helper()
	conn, err := net.Dial(r.agent.Network(), r.agent.String())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// open returns both ends of a tunnel.
func (r *rig) open() (*tunnel.Conn, *net.TCPConn) {
	r.Helper()
	conn := r.dial()
	_ = conn.SetDeadline(time.Time{})
	c, err := tunnel.Open(r.Context(), conn, "sb-00000001")
	if err != nil {
		r.Fatal(err)
	}
	guest, err := r.guest.Accept()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		_ = guest.Close()
		_ = c.Close()
		c.Wait(context.Background())
	})
	return c, guest.(*net.TCPConn)
}

// end is what the agent's end of a tunnel came to.
func (r *rig) end() error {
	r.Helper()
	select {
	case err := <-r.ends:
		return err
	case <-time.After(patience):
		r.Fatal("the agent's end of the tunnel goes on")
		return nil
	}
}

func write(t testing.TB, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
}

func wantRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func TestBothWays(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		write(t, c, "hello")
		wantRead(t, guest, "hello")
		write(t, guest, "world")
		wantRead(t, c, "wo") // a message may be read in parts
		wantRead(t, c, "rld")

		content := make([]byte, 5<<20+1)
		rand.Read(content)
		echoed := make(chan error, 1)
		go func() {
			_, err := io.Copy(guest, guest)
			echoed <- errors.Join(err, guest.CloseWrite())
		}()
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(content)
			sent <- errors.Join(err, c.CloseWrite())
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes of %d came back, %v", len(got), len(content), err)
		}
		if err := errors.Join(<-sent, <-echoed, r.end()); err != nil {
			t.Error(err)
		}
	})
}

// TestReadFrom: what comes slowly is passed on as it comes, and a source's failure is the caller's.
func TestReadFrom(t *testing.T) {
	r := newRig(t, "unix")
	c, guest := r.open()
	source, feed := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		n, err := c.ReadFrom(source)
		if n != int64(len("a little more")) {
			err = errors.Join(err, fmt.Errorf("%d bytes were copied", n))
		}
		copied <- err
	}()
	write(t, feed, "a little")
	wantRead(t, guest, "a little")
	write(t, feed, " more")
	wantRead(t, guest, " more")
	_ = feed.CloseWithError(errors.ErrUnsupported)
	if err := <-copied; !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if n, err := c.ReadFrom(strings.NewReader("the rest")); n != int64(len("the rest")) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	wantRead(t, guest, "the rest")
}

// TestHalfClose: the end of what the caller sends reaches the guest, whose answer is still read.
func TestHalfClose(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		write(t, c, "question")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(guest); err != nil || string(got) != "question" {
			t.Errorf("the guest read %q, %v", got, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		write(t, guest, "answer")
		wantRead(t, c, "answer")
		guest.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("Read after the guest's end: %v", err)
		}
	})
}

// TestCloseSendsWhatWasWritten, then ends everything.
func TestCloseSendsWhatWasWritten(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for _, half := range []bool{false, true} {
			c, guest := r.open()
			content := strings.Repeat("0123456789abcdef", 4000)
			write(t, c, content)
			if half {
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(guest); err != nil || string(got) != content {
				t.Errorf("the guest read %d bytes of %d, %v", len(got), len(content), err)
			}
			guest.Close()
			c.Wait(context.Background())
			if err := r.end(); err != nil {
				t.Error(err)
			}
			for name, err := range map[string]error{
				"Close": c.Close(), "CloseWrite": c.CloseWrite(), "Read": second(c.Read(make([]byte, 1))),
				"Write": second(c.Write([]byte("x"))), "SetDeadline": c.SetDeadline(time.Now()),
			} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s after Close: %v", name, err)
				}
			}
		}
	})
}

func second(_ int, err error) error { return err }

// TestCloseEndsWhatIsUnderWay: reads, and writes that the guest does not take.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, _ := r.open()
		read, wrote := make(chan error, 1), make(chan error, 1)
		go func() { read <- second(c.Read(make([]byte, 1))) }()
		go func() {
			for {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					wrote <- err
					return
				}
			}
		}()
		time.Sleep(50 * time.Millisecond) // both have probably begun; the outcome is the same if not
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for name, ended := range map[string]chan error{"Read": read, "Write": wrote} {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		c.Wait(context.Background())
		_ = r.end()
	})
}

// TestGuestEnds: what it has sent is read to its end, and a write says that nobody is there.
func TestGuestEnds(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		write(t, guest, "last words")
		guest.Close()
		if got, err := io.ReadAll(c); err != nil || string(got) != "last words" {
			t.Errorf("read %q, %v", got, err)
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); models.CodeOf(err) != models.Unavailable {
			t.Errorf("Write: %v", err)
		}
	})
}

// TestGuestBreaks: a reset is an error with a code, and no end of file.
func TestGuestBreaks(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		write(t, guest, "x")
		wantRead(t, c, "x")
		_ = guest.SetLinger(0)
		guest.Close()
		if _, err := c.Read(make([]byte, 1)); models.CodeOf(err) != models.Unavailable || errors.Is(err, io.EOF) {
			t.Errorf("Read: %v", err)
		}
	})
}

// TestRefusingGuestIsHeard: one that reads no more may have said why.
func TestRefusingGuestIsHeard(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		_ = guest.CloseRead()
		write(t, guest, "too large")
		go func() {
			for second(c.Write(make([]byte, 64<<10))) == nil { // until it fails, or Close
			}
		}()
		wantRead(t, c, "too large")
	})
}

// TestEndReachesWhoStillSends: what a caller has under way when the guest ends does not undo what the guest has said.
func TestEndReachesWhoStillSends(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		go func() {
			for second(c.Write(make([]byte, 64<<10))) == nil { // until it fails
			}
		}()
		wantRead(t, guest, "\x00")                          // it is under way
		answer := strings.Repeat("that is enough", 100_000) // over TCP most of it waits at the agent
		go func() {
			_, _ = io.WriteString(guest, answer)
			_ = guest.CloseWrite()
		}()
		time.Sleep(100 * time.Millisecond) // a reset would be here by now
		if got, err := io.ReadAll(c); err != nil || string(got) != answer {
			t.Errorf("read %d bytes of %d, %v", len(got), len(answer), err)
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestReadDeadline(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		buf := make([]byte, 10)
		for _, in := range []time.Duration{-time.Second, 0, 10 * time.Millisecond} {
			if err := c.SetReadDeadline(time.Now().Add(in)); err != nil {
				t.Fatal(err)
			}
			for range 2 { // it holds until it is moved
				if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("Read with a deadline in %v: %v", in, err)
				}
			}
		}
		// Moved while a Read waits: first later, then earlier.
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() { read <- second(c.Read(buf)) }()
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		time.Sleep(400 * time.Millisecond)
		select {
		case err := <-read:
			t.Fatalf("the deadline was not moved: %v", err)
		default:
		}
		_ = c.SetReadDeadline(time.Now())
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		_ = c.SetDeadline(time.Time{})
		write(t, guest, "all is well")
		wantRead(t, c, "all is well")
	})
}

// TestWriteDeadline: one that has passed before it begins leaves the tunnel whole; one that ends it, does not.
func TestWriteDeadline(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		_ = c.SetWriteDeadline(time.Now())
		if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v", n, err)
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Hour))
		write(t, c, "hello")
		wantRead(t, guest, "hello")
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 64<<20)) // more than all that holds anything on the way
			written <- err
		}()
		wantRead(t, guest, "\x00") // it is under way
		_ = c.SetWriteDeadline(time.Now())
		if err := <-written; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
		if r.end() == nil {
			t.Error("the tunnel ended in order")
		}
	})
}

// TestCallerThatVanishes: its connection is closed, also while the guest neither reads nor writes.
func TestCallerThatVanishes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		c.Break()
		if _, err := io.ReadAll(guest); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
		if models.CodeOf(r.end()) != models.Unavailable {
			t.Error("the tunnel ended in order")
		}
		stuck, _ := r.open()
		var err error
		for part := make([]byte, 1<<20); err == nil; { // until all that holds anything on the way is full
			_ = stuck.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			_, err = stuck.Write(part)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
		stuck.Break()
		if models.CodeOf(r.end()) != models.Unavailable {
			t.Error("the tunnel ended in order")
		}
	})
}

// TestAgentThatVanishes: what it has sent is read, and then there is an error, not an end.
func TestAgentThatVanishes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c, guest := r.open()
		write(t, guest, "x")
		wantRead(t, c, "x")
		r.server.Stop()
		for range 2 {
			if _, err := c.Read(make([]byte, 1)); models.CodeOf(err) != models.Unavailable || errors.Is(err, io.EOF) {
				t.Errorf("Read: %v", err)
			}
		}
		_ = r.end()
	})
}

// TestSlowReaderHoldsUpNoOther, nor the memory of the agent.
func TestSlowReaderHoldsUpNoOther(t *testing.T) {
	r := newRig(t, "unix")
	for range 8 {
		_, guest := r.open() // nobody reads these
		taken := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(guest, endless{}) // ends with the tunnel
			taken <- n
		}()
		defer func() {
			guest.Close()
			if n := <-taken; n > 32<<20 {
				t.Errorf("%d bytes were taken for a reader that does not read", n)
			}
		}()
	}
	time.Sleep(50 * time.Millisecond) // their windows fill
	c, guest := r.open()
	const size = 64 << 20
	go func() { _, _ = io.CopyN(guest, endless{}, size) }()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Errorf("%d bytes came, %v", n, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestOpening: the caller learns why it fails, or that it took too long, and then the agent does not go on with it.
func TestOpening(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		_, err := tunnel.Open(t.Context(), r.dial(), "absent")
		if got := models.AsError(err); got.Code != models.NotFound || got.Hint != "look again" || !grpcerr.FromAgent(err) {
			t.Errorf("Open = %+v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := tunnel.Open(ctx, r.dial(), "slow"); models.CodeOf(err) != models.Deadline {
			t.Errorf("Open: %v", err)
		}
		if models.CodeOf(r.end()) != models.Unavailable {
			t.Error("the caller's leaving was not seen")
		}
	})
}

// TestOtherVersion: who speaks another one is told, and what is neither a tunnel nor gRPC gets nothing from gRPC.
func TestOtherVersion(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		conn := r.dial()
		write(t, conn, "wrenn-tunnel/9\nwhatever it says then")
		if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("different versions")) {
			t.Errorf("%q, %v", answer, err)
		}
		conn = r.dial()
		write(t, conn, "GET / HTTP/1.1\r\nHost: the-host-agent\r\n\r\n")
		if answer, _ := io.ReadAll(conn); bytes.Contains(answer, []byte("200")) {
			t.Errorf("%q", answer)
		}
	})
}

// TestGracefulStop waits for tunnels, and takes no more.
func TestGracefulStop(t *testing.T) {
	r := newRig(t, "unix")
	c, guest := r.open()
	idle := r.dial() // it has not said what it is
	r.server.GracefulStop()
	if _, err := net.Dial(r.agent.Network(), r.agent.String()); err == nil {
		t.Error("a connection after the stop")
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("what had not begun goes on")
	}
	write(t, c, "hello")
	wantRead(t, guest, "hello")
}

// TestNothingIsLeft after many tunnels that end in every way.
func TestNothingIsLeft(t *testing.T) {
	r := newRig(t, "unix")
	warm, guest := r.open() // the connection's own goroutines
	guest.Close()
	_ = r.end()
	_ = warm.Close()
	warm.Wait(context.Background())
	before := runtime.NumGoroutine()
	for i := range 200 {
		c, guest := r.open()
		write(t, c, "x")
		switch i % 4 {
		case 0:
			guest.Close()
		case 1:
			_ = c.CloseWrite()
		case 2:
			_ = guest.SetLinger(0)
			guest.Close()
		}
		_ = c.Close()
		guest.Close()
		c.Wait(context.Background())
		_ = r.end()
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before+5; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func BenchmarkDown(b *testing.B) {
	r := newRig(b, "unix")
	c, guest := r.open()
	go func() { _, _ = io.Copy(guest, endless{}) }()
	buf := make([]byte, 64<<10)
	b.SetBytes(1 << 20)
	for b.Loop() {
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c, 1<<20), buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUp(b *testing.B) {
	r := newRig(b, "unix")
	c, guest := r.open()
	go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{guest}) }()
	buf := make([]byte, 64<<10)
	b.SetBytes(1 << 20)
	for b.Loop() {
		for range 16 {
			if _, err := c.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkPingPong(b *testing.B) {
	r := newRig(b, "unix")
	c, guest := r.open()
	go func() { _, _ = io.Copy(guest, guest) }()
	buf := make([]byte, 100)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
