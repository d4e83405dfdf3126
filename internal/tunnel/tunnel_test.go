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
	"google.golang.org/grpc/credentials/insecure"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = time.Minute

// rig is a gRPC connection over which tunnels lead to a listener, where the tests are the guest.
type rig struct {
	testing.TB
	api   pb.HostAgentServiceClient
	guest net.Listener
	ends  chan error // what each Serve returned
}

type agent struct {
	pb.UnimplementedHostAgentServiceServer
	rig *rig
}

func (a agent) Tunnel(stream grpc.BidiStreamingServer[pb.TunnelRequest, pb.TunnelResponse]) error {
	conn, err := net.Dial("tcp", a.rig.guest.Addr().String())
	if err == nil {
		err = tunnel.Serve(stream, conn)
	}
	a.rig.ends <- err
	return err
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{TB: t, ends: make(chan error, 10_000)}
	dir, err := os.MkdirTemp("", "tunnel-") // t.TempDir may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if r.guest, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(tunnel.ServerOptions(), grpc.StreamInterceptor(grpcerr.StreamServer(slog.New(slog.DiscardHandler))))...)
	pb.RegisterHostAgentServiceServer(s, agent{rig: r})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	client, err := grpc.NewClient("unix://"+l.Addr().String(),
		append(tunnel.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = r.guest.Close()
	})
	r.api = pb.NewHostAgentServiceClient(client)
	return r
}

// stream opens a tunnel and returns it as it is on the wire, and the guest's end.
func (r *rig) stream(ctx context.Context) (grpc.BidiStreamingClient[pb.TunnelRequest, pb.TunnelResponse], *net.TCPConn) {
	r.Helper()
	stream, err := r.api.Tunnel(ctx)
	if err != nil {
		r.Fatal(err)
	}
	conn, err := r.guest.Accept()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	if first, err := stream.Recv(); err != nil || len(first.GetData()) != 0 {
		r.Fatalf("the first response is %v, %v", first, err)
	}
	return stream, conn.(*net.TCPConn)
}

// open returns both ends of a tunnel.
func (r *rig) open() (*tunnel.Conn, *net.TCPConn) {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, guest := r.stream(ctx)
	c := tunnel.New(ctx, cancel, stream, "sb-00000001")
	r.Cleanup(func() {
		_ = c.Close()
		c.Wait()
	})
	return c, guest
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
	r := newRig(t)
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
}

// TestReadFrom: what comes slowly is passed on as it comes, and a source's failure is the caller's.
func TestReadFrom(t *testing.T) {
	r := newRig(t)
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
	r := newRig(t)
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
}

// TestCloseSendsWhatWasWritten, then ends everything.
func TestCloseSendsWhatWasWritten(t *testing.T) {
	r := newRig(t)
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
		c.Wait()
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
}

func second(_ int, err error) error { return err }

// TestCloseEndsWhatIsUnderWay: reads, and writes that the guest does not take.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	r := newRig(t)
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
	c.Wait()
	_ = r.end()
}

// TestGuestEnds: what it has sent is read to its end, and a write says that nobody is there.
func TestGuestEnds(t *testing.T) {
	r := newRig(t)
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
}

// TestGuestBreaks: a reset is an error with a code, and no end of file.
func TestGuestBreaks(t *testing.T) {
	r := newRig(t)
	c, guest := r.open()
	write(t, guest, "x")
	wantRead(t, c, "x")
	_ = guest.SetLinger(0)
	guest.Close()
	if _, err := c.Read(make([]byte, 1)); models.CodeOf(err) != models.Unavailable || errors.Is(err, io.EOF) {
		t.Errorf("Read: %v", err)
	}
}

// TestRefusingGuestIsHeard: one that reads no more may have said why.
func TestRefusingGuestIsHeard(t *testing.T) {
	r := newRig(t)
	c, guest := r.open()
	_ = guest.CloseRead()
	write(t, guest, "too large")
	go func() {
		for second(c.Write(make([]byte, 64<<10))) == nil { // until it fails, or Close
		}
	}()
	wantRead(t, c, "too large")
}

func TestReadDeadline(t *testing.T) {
	r := newRig(t)
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
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- second(c.Read(buf)) }()
	_ = c.SetReadDeadline(time.Now().Add(time.Hour))
	time.Sleep(40 * time.Millisecond)
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
}

// TestWriteDeadline: one that has passed before it begins leaves the tunnel whole; one that ends it, does not.
func TestWriteDeadline(t *testing.T) {
	r := newRig(t)
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
}

// TestMessagesAreBounded: the agent takes none that is larger than agreed.
func TestMessagesAreBounded(t *testing.T) {
	r := newRig(t)
	stream, _ := r.stream(t.Context())
	if err := stream.Send(&pb.TunnelRequest{Data: make([]byte, tunnel.MaxData+1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); models.CodeOf(grpcerr.Decode(err)) != models.Invalid {
		t.Errorf("Recv: %v", err)
	}
	_ = r.end()
}

// TestCallerThatVanishes: its connection is closed.
func TestCallerThatVanishes(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, guest := r.stream(ctx)
	cancel()
	if _, err := io.ReadAll(guest); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if r.end() == nil {
		t.Error("the tunnel ended in order")
	}
}

// TestSlowReaderHoldsUpNoOther, nor the memory of the agent.
func TestSlowReaderHoldsUpNoOther(t *testing.T) {
	r := newRig(t)
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

// TestNothingIsLeft after many tunnels that end in every way.
func TestNothingIsLeft(t *testing.T) {
	r := newRig(t)
	warm, guest := r.open() // the connection's own goroutines
	guest.Close()
	_ = r.end()
	_ = warm.Close()
	warm.Wait()
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
		c.Wait()
		_ = r.end()
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before+5; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func BenchmarkDown(b *testing.B) {
	r := newRig(b)
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
	r := newRig(b)
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
	r := newRig(b)
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
