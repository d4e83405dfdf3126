// Package httptest has handlers answer tests: over the network, and without it.
package httptest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/serve"
)

// Server returns a server of h that has envd's limits.
func Server(h http.Handler) *serve.Server {
	return &serve.Server{
		Service: http.Service{
			Handler: h, HeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeader: 64 << 10, Logger: slog.New(slog.DiscardHandler),
		},
		MaxConnections: 1024,
	}
}

// Serve serves s on the loopback until the test ends, and returns where.
func Serve(t testing.TB, s *serve.Server) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // no name is looked up
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// Answer is what a handler has answered.
type Answer struct {
	Status int
	Header http.Header
	Body   bytes.Buffer
}

// Send implements http.Sender.
func (a *Answer) Send(part *http.Part) error {
	if part.Head != nil {
		a.Status, a.Header = part.Head.Status, part.Head.Header
	}
	for _, data := range part.Body {
		a.Body.Write(data)
	}
	return nil
}

// Ask has h answer a request.
func Ask(t testing.TB, h http.Handler, method, target string, header http.Header, body io.Reader) *Answer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequest(ctx, method, target)
	if err != nil {
		t.Fatal(err)
	}
	r.ProtoMajor, r.Header, r.ContentLength = 1, header, -1
	r.Body = io.NopCloser(body)
	answer := &Answer{}
	w := http.NewResponse(answer, method)
	h.ServeHTTP(w, r)
	if err := w.Finish(); err != nil {
		t.Errorf("%s %s: %v", method, target, err)
	}
	return answer
}
