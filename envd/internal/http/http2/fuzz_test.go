package http2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	own "github.com/wrenn-sandbox/wrenn/envd/internal/http/http2"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
)

// recording is a connection on which everything that the peer will say is there, and nothing after it.
type recording struct {
	io.Reader
	mu  sync.Mutex
	out bytes.Buffer
}

func (r *recording) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}
func (r *recording) Close() error                     { return nil }
func (r *recording) LocalAddr() net.Addr              { return nil }
func (r *recording) RemoteAddr() net.Addr             { return nil }
func (r *recording) SetDeadline(time.Time) error      { return nil }
func (r *recording) SetReadDeadline(time.Time) error  { return nil }
func (r *recording) SetWriteDeadline(time.Time) error { return nil }

// FuzzFrames: whatever a peer says, the connection ends with it, no handler is left, requests are valid, and what was sent are
// frames.
func FuzzFrames(f *testing.F) {
	record := func(say func(framer *http2.Framer)) {
		var sent bytes.Buffer
		framer := http2.NewFramer(&sent, nil)
		framer.AllowIllegalWrites = true
		_ = framer.WriteSettings()
		say(framer)
		f.Add(sent.Bytes())
	}
	head := http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(post...), EndHeaders: true}
	record(func(framer *http2.Framer) {
		_ = framer.WriteHeaders(head)
		_ = framer.WriteDataPadded(1, true, []byte("abc"), make([]byte, 3))
		_ = framer.WriteWindowUpdate(0, 10)
		_ = framer.WritePing(false, [8]byte{})
	})
	record(func(framer *http2.Framer) {
		head := head
		head.EndHeaders = false
		_ = framer.WriteHeaders(head)
		_ = framer.WriteContinuation(1, true, block("x", "y"))
		_ = framer.WriteRSTStream(1, 0)
		_ = framer.WriteSettings(http2.Setting{ID: 4, Val: 3}, http2.Setting{ID: 5, Val: 20 << 10})
		_ = framer.WriteGoAway(1, 0, nil)
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		server := httptest.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !http.ValidToken(r.Method) || r.URL == nil || r.Context() == nil {
				t.Errorf("%+v", r)
			}
			for name, value := range r.Header.Fields {
				w.Header().Add("X-"+name, value)
			}
			_, _ = io.Copy(w, r.Body)
		}))
		conn := &recording{Reader: bytes.NewReader(append([]byte(http2.ClientPreface[own.Telling:]), data...))}
		own.Serve(context.Background(), conn, &server.Service)
		framer := http2.NewFramer(nil, &conn.out)
		framer.SetMaxReadFrameSize(1 << 20)
		for {
			if _, err := framer.ReadFrame(); err == io.EOF {
				return
			} else if err != nil {
				t.Fatalf("what was sent: %v", err)
			}
		}
	})
}
