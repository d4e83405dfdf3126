package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// record is one as it is on the wire.
func record(k kind, body string) string {
	header := make([]byte, headerSize)
	putHeader(header, k, len(body))
	return string(header) + body
}

func opening(sandbox string) string {
	body, _ := proto.Marshal(&pb.TunnelRequest{SandboxId: sandbox})
	return preface + version + record(open, string(body))
}

// openings are what a caller may begin with, and the code of what it learns.
var openings = map[string]models.Code{
	opening("sb-00000001"):                        "",
	opening(""):                                   "",
	"wrenn-tunnel/2\n" + record(open, ""):         models.Invalid,
	"wrenn-something-else":                        models.Invalid,
	preface + version + record(data, "x"):         models.Invalid,
	preface + version + record(kind(200), ""):     models.Invalid,
	preface + version + record(open, "\xff\xff"):  models.Unavailable,
	opening(strings.Repeat("x", limits[open])):    models.Invalid,
	preface + version + "\x03\xff\xff\xff":        models.Invalid,
	"wrenn":                                       models.Unavailable,
	preface + version + "\x03\x00":                models.Unavailable,
	preface + version + "\x03\x00\x00\x10sb-0000": models.Unavailable,
}

func TestReadOpening(t *testing.T) {
	for text, want := range openings {
		_, err := readOpening(bufio.NewReader(strings.NewReader(text)))
		if got := models.Code(""); err != nil || want != "" {
			if err != nil {
				got = models.CodeOf(err)
			}
			if got != want {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
		}
	}
}

// FuzzOpening: whatever a caller begins with, it is an opening that can be said again, or a coded error, and what
// follows it is left.
func FuzzOpening(f *testing.F) {
	for text := range openings {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(append(text, "rest"...)), small)
		sandbox, err := readOpening(in)
		var coded *models.Error
		if err != nil {
			if !errors.As(err, &coded) {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		if len(sandbox) > limits[open] {
			t.Errorf("%d bytes of a sandbox", len(sandbox))
		}
		if again, err := readOpening(bufio.NewReader(strings.NewReader(opening(sandbox)))); again != sandbox || err != nil {
			t.Errorf("%q became %q, %v", sandbox, again, err)
		}
		if rest, err := io.ReadAll(in); err != nil || !bytes.HasSuffix(rest, []byte("rest")) {
			t.Errorf("%q is left, %v", rest, err)
		}
	})
}

// pipes is a listener that gives the other ends of pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return address("pipes") }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// TestSlowOpenings: who does not come to the point is cut off, and while there are many of them nobody else gets in.
func TestSlowOpenings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		s := NewServer(grpc.NewServer(), func(context.Context, *Tunnel) error { return nil }, slog.New(slog.DiscardHandler))
		served := make(chan error)
		go func() { served <- s.Serve(p) }()
		begun := time.Now()
		var all []net.Conn
		for i := range maxBeginning {
			conn := p.dial()
			all = append(all, conn)
			if i%2 == 0 {
				_, _ = io.WriteString(conn, "wrenn-tun")
			}
		}
		synctest.Wait()
		if _, err := p.dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one too many: %v", err)
		}
		if took := time.Since(begun); took > 0 {
			t.Errorf("it was told after %v", took)
		}
		var cutOff sync.WaitGroup
		for i, conn := range all {
			cutOff.Go(func() {
				answer, err := io.ReadAll(conn)
				if err != nil || (len(answer) > headerSize) != (i%2 == 0) {
					t.Errorf("%d: %q, %v", i, answer, err)
				}
			})
		}
		cutOff.Wait()
		if took := time.Since(begun); took < beginLimit || took > beginLimit+linger {
			t.Errorf("they were cut off after %v", took)
		}
		conn := p.dial()
		if _, err := Open(t.Context(), conn, "x"); models.CodeOf(err) != models.Unavailable {
			t.Errorf("a tunnel that ends before it is open: %v", err)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestRecordsOutOfPlace end the tunnel with a reason, and so does one that is too large.
func TestRecordsOutOfPlace(t *testing.T) {
	tooLarge := make([]byte, headerSize)
	binary.BigEndian.PutUint32(tooLarge, MaxData+1)
	for name, sent := range map[string]string{
		"too large": string(tooLarge), "opened twice": record(open, ""), "a failure of the caller": record(failed, ""),
		"after the end": record(end, "") + record(data, "x"), "of no kind": record(99, ""),
	} {
		ours, theirs := net.Pipe()
		guest, other := net.Pipe()
		tn := accept(t.Context(), theirs, bufio.NewReader(theirs), "x")
		ended, finished := make(chan error, 1), make(chan struct{})
		go func() {
			defer close(finished)
			err := tn.Carry(guest)
			ended <- err
			tn.finish(err)
		}()
		in := bufio.NewReader(ours)
		if k, _, err := next(in); k != open || err != nil {
			t.Fatal(k, err)
		}
		if _, err := io.WriteString(ours, sent); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; models.CodeOf(err) != models.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		_ = ours.Close()
		_ = other.Close()
		<-finished
	}
}
