package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
)

// stream answers with the events of p as they happen. A client that reads slowly slows the
// program down; one that reads nothing for the idle limit has gone, which kills it.
// cancel ends p.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, p *hostclient.Process, cancel context.CancelFunc) error {
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	e := &events{w: w, rc: http.NewResponseController(w), idle: s.Limits.Idle}
	e.send("started", map[string]uint32{"pid": p.PID})

	outputs, stop, done := make(chan output), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		read(p, outputs, stop)
	}()
	defer func() {
		close(stop)
		cancel()
		<-done
	}()
	keepOpen := time.NewTicker(s.Limits.KeepOpen)
	defer keepOpen.Stop()
	for e.err == nil {
		select {
		case o := <-outputs:
			if s.relay(e, r, o) {
				return nil
			}
		case <-keepOpen.C:
			e.write(": still running\n\n")
		}
	}
	return nil // the client has gone
}

type output struct {
	hostclient.Output
	err error
}

func read(p *hostclient.Process, to chan<- output, stop <-chan struct{}) {
	for {
		o, err := p.Next()
		select {
		case to <- output{o, err}:
		case <-stop:
			return
		}
		if err != nil || o.Exit != nil {
			return
		}
	}
}

// relay sends one output and reports whether it was the last.
func (s *Server) relay(e *events, r *http.Request, o output) (last bool) {
	switch {
	case o.err != nil:
		aboutOf(r.Context()).cause = o.err
		e.send("error", body(r, o.err))
		return true
	case o.Exit != nil:
		e.send("exit", exit(*o.Exit))
		return true
	case len(o.Stdout) > 0:
		e.send("stdout", map[string][]byte{"data": o.Stdout}) // JSON has bytes as base64
	case len(o.Stderr) > 0:
		e.send("stderr", map[string][]byte{"data": o.Stderr})
	}
	return false
}

// events writes server-sent events. After the first failure it writes nothing.
type events struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration
	err  error
}

func (e *events) send(name string, data any) {
	b, err := json.Marshal(data)
	if err != nil {
		panic(err) // every data is of a type of ours that can be encoded
	}
	e.write(fmt.Sprintf("event: %s\ndata: %s\n\n", name, b))
}

func (e *events) write(s string) {
	if e.err != nil {
		return
	}
	_ = e.rc.SetWriteDeadline(time.Now().Add(e.idle)) // unsupported only in unit tests
	if _, e.err = e.w.Write([]byte(s)); e.err == nil {
		e.err = e.rc.Flush()
	}
}
