package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
)

// stream answers with the events of p as they happen. A client that reads slowly slows the
// program down; one that reads nothing for the idle limit has gone, which kills it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, p *program) error {
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	e := &events{w: w, rc: http.NewResponseController(w), idle: s.Limits.Idle}
	outputs, stop, done := make(chan output), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		read(p, outputs, stop)
	}()
	defer func() {
		close(stop)
		_ = p.Close() // it never fails, and ends Next
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

// output is what Next returned.
type output struct {
	event envdclient.Event
	err   error
}

func read(p *program, to chan<- output, stop <-chan struct{}) {
	for {
		event, err := p.Next()
		select {
		case to <- output{event, err}:
		case <-stop:
			return
		}
		if _, exited := event.(envdclient.Exited); exited || err != nil {
			return
		}
	}
}

// relay sends one output and reports whether it was the last.
func (s *Server) relay(e *events, r *http.Request, o output) (last bool) {
	if o.err != nil {
		aboutOf(r.Context()).cause = o.err
		e.send("error", body(r, o.err))
		return true
	}
	switch event := o.event.(type) {
	case envdclient.Started:
		e.send("started", map[string]uint32{"pid": event.PID})
	case envdclient.Stdout:
		e.send("stdout", map[string][]byte{"data": event}) // JSON has bytes as base64
	case envdclient.Stderr:
		e.send("stderr", map[string][]byte{"data": event})
	case envdclient.Exited:
		e.send("exit", exit(event))
		return true
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
