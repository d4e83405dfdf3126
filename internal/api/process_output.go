package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// lastEventID is the header by which a client that reconnects tells the last event that it has had.
const lastEventID = "Last-Event-ID"

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
	sb, which, err := processOf(r)
	if err != nil {
		return err
	}
	guest, used, err := s.connection(r, sb)
	if err != nil {
		return err
	}
	return s.followProcess(w, r, used, func(ctx context.Context) (*envdclient.Attachment, error) {
		return guest.Attach(ctx, which, offset)
	})
}

// runProcess starts a process and streams its output, for which it waits. It outlives the stream.
func (s *Server) runProcess(w http.ResponseWriter, r *http.Request, guest *envdclient.Client, spec envdclient.Spec) error {
	return s.followProcess(w, r, func() {}, func(ctx context.Context) (*envdclient.Attachment, error) {
		return guest.Run(ctx, spec)
	})
}

// followProcess streams what open opens, and calls used for each piece of it.
func (s *Server) followProcess(w http.ResponseWriter, r *http.Request, used func(), open func(context.Context) (*envdclient.Attachment, error)) error {
	ctx, cancel := s.untilEnd(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	a, err := open(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	e := s.newEvents(w)
	defer e.keepOpen(s.Limits.KeepOpen, cancel)()
	f := follower{offset: a.Offset(), events: e}
	f.send("started", map[string]uint64{"pid": uint64(a.PID()), "offset": f.offset})
	s.follow(r, e, a.Next, func(event envdclient.Event) (last bool) {
		used()
		return f.relay(event)
	})
	return nil
}

// startOffset is where a client wants to begin: after the last event that it has had, or where it says.
func startOffset(r *http.Request, q url.Values) (int64, error) {
	text := r.Header.Get(lastEventID)
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
		f.send("gap", map[string]uint64{"bytes": e.Bytes})
	case envdclient.Exited:
		f.send("exit", exit(e))
		return true
	}
	return false
}

func (f *follower) data(name string, data []byte) {
	f.offset += uint64(len(data))
	f.send(name, bytesView(data))
}

func (f *follower) send(name string, data any) {
	f.events.sendID(strconv.FormatUint(f.offset, 10), name, data)
}
