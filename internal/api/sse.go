package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
)

// stream answers with the events of p as they happen. A client that reads slowly slows the
// program down; one that reads nothing for the idle limit has gone, which kills it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, p *program) error {
	e := s.newEvents(w)
	defer e.keepOpen(s.Limits.KeepOpen, func() { _ = p.Close() })() // Close never fails, and ends Next
	s.follow(r, e, p.Next, func(event envdclient.Event) (last bool) {
		switch v := event.(type) {
		case envdclient.Started:
			e.send("started", map[string]uint32{"pid": v.PID})
		case envdclient.Stdout:
			e.send("stdout", bytesView(v))
		case envdclient.Stderr:
			e.send("stderr", bytesView(v))
		case envdclient.Exited:
			e.send("exit", exit(v))
			return true
		}
		return false
	})
	return nil
}

// bytesView is the schemas ExecOutput and ProcessOutput: JSON has bytes as base64.
func bytesView(data []byte) map[string][]byte { return map[string][]byte{"data": data} }

// follow gives relay what next returns, until relay has had the last, next fails, or the client has gone.
func (s *Server) follow(r *http.Request, e *events, next func() (envdclient.Event, error), relay func(envdclient.Event) (last bool)) {
	for e.failure() == nil {
		event, err := next()
		if err != nil {
			e.sendError(r, "error", err)
			return
		}
		if relay(event) {
			return
		}
	}
}

// events writes server-sent events. The answer's header goes out with the first of them; after a failure nothing more is
// written. Its methods may be called at the same time.
type events struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration

	mu      sync.Mutex // guards what follows and orders the writes
	started bool
	err     error
}

func (s *Server) newEvents(w http.ResponseWriter) *events {
	return &events{w: w, rc: http.NewResponseController(w), idle: s.Limits.Idle}
}

// keepOpen writes a comment now and then, until the returned function is called. When that fails, as the client has gone, it
// calls gone.
func (e *events) keepOpen(every time.Duration, gone func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if e.write(": still running\n\n") != nil {
					gone()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (e *events) send(name string, data any) { e.sendID("", name, data) }

// sendID sends an event with an id, which a client that reconnects tells.
func (e *events) sendID(id, name string, data any) {
	b, err := json.Marshal(data)
	if err != nil {
		panic(err) // every data is of a type of ours that can be encoded
	}
	var text strings.Builder
	if id != "" {
		fmt.Fprintf(&text, "id: %s\n", id)
	}
	fmt.Fprintf(&text, "event: %s\ndata: %s\n\n", name, b)
	_ = e.write(text.String()) // failure says it
}

// sendError ends a stream with an error.
func (e *events) sendError(r *http.Request, name string, err error) {
	aboutOf(r.Context()).cause = err
	e.send(name, body(r, err))
}

// failure returns why nothing more is written.
func (e *events) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// begun tells whether the answer has begun, so that an error can no longer be one.
func (e *events) begun() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.started
}

func (e *events) write(text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	if !e.started {
		e.started = true
		h := e.w.Header()
		h.Set("Content-Type", eventStream)
		h.Set("Cache-Control", noStore)
		h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	}
	_ = e.rc.SetWriteDeadline(time.Now().Add(e.idle)) // unsupported only in unit tests
	if _, e.err = e.w.Write([]byte(text)); e.err == nil {
		e.err = e.rc.Flush()
	}
	return e.err
}
