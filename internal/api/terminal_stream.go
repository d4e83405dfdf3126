package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// maxTerminalMessage bounds a message of the client; what is pasted comes in pieces or in one.
	maxTerminalMessage = 1 << 20
	// pendingInput messages are held while the program does not read. Then the client is not read either.
	pendingInput = 16
)

// terminal is one client of a terminal. The terminal does not notice when it goes, comes back, or is slow: then it misses
// output, and is told so.
type terminal struct {
	server *Server
	r      *http.Request
	conn   *websocket.Conn
	guest  *envdclient.Client
	used   func()
	stuck  atomic.Bool // the client is not read, because the program does not read
}

// The messages, in JSON, besides the bytes of the terminal.
type (
	terminalStarted struct {
		Type   string `json:"type"`
		ID     string `json:"id"`
		PID    uint32 `json:"pid"`
		Offset uint64 `json:"offset"`
	}
	terminalGap struct {
		Type  string `json:"type"`
		Bytes uint64 `json:"bytes"`
	}
	terminalExit struct {
		Type string `json:"type"`
		exitView
	}
	terminalError struct {
		Type string `json:"type"`
		errorBody
	}
	terminalControl struct {
		Type string `json:"type"`
		Cols int    `json:"cols"`
		Rows int    `json:"rows"`
	}
)

// serve runs until the terminal or its client has gone.
func (t *terminal) serve(in terminalRequest) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.r.Context()))
	defer cancel(nil)
	until := t.server.ending
	if !in.detach { // it cannot be attached to again
		until = t.r.Context()
	}
	defer hangUpAt(until, t.conn, func(err error) error { return t.tellError(ctx, err) }, func() { cancel(errStopping) })()
	t.conn.SetReadLimit(maxTerminalMessage)
	a, err := t.open(ctx, &in)
	if err != nil {
		t.end(ctx, err)
		return
	}
	defer func() { _ = a.Close() }()
	if !in.detach {
		defer t.hangUp(ctx, in.selector())
	}
	err = t.tell(ctx, terminalStarted{Type: "started", ID: string(in.id), PID: a.PID(), Offset: a.Offset()})
	if err != nil {
		return
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)
	input := make(chan []byte, pendingInput)
	work.Go(func() { cancel(t.receive(ctx, in.selector(), input)) })
	work.Go(func() { t.feed(ctx, in.selector(), input) })
	work.Go(func() { t.keepOpen(ctx, cancel) })
	t.end(ctx, t.relay(ctx, a))
}

// open opens the terminal, if need be after the client has said what to run.
func (t *terminal) open(ctx context.Context, in *terminalRequest) (*envdclient.Attachment, error) {
	if in.awaits {
		start, err := t.readStart(ctx)
		if err == nil {
			err = in.run(start)
		}
		if err != nil {
			return nil, err
		}
	}
	return in.open(ctx, t.guest)
}

func (t *terminal) readStart(ctx context.Context) (start terminalStart, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.server.Limits.Idle)
	defer cancel()
	kind, data, err := t.conn.Read(ctx)
	if err != nil {
		return start, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if kind != websocket.MessageText || decoder.Decode(&start) != nil || start.Type != "start" {
		return start, models.Errorf(models.Invalid, "the first message must be {\"type\":\"start\",\"cmd\":…,\"cwd\":…,\"user\":…,\"env\":{…}}")
	}
	return start, nil
}

// relay passes output on until the terminal ends, which is io.EOF, or it fails.
func (t *terminal) relay(ctx context.Context, a *envdclient.Attachment) error {
	for {
		event, err := a.Next()
		if err != nil {
			return err
		}
		t.used()
		switch e := event.(type) {
		case envdclient.PTY:
			err = t.write(ctx, websocket.MessageBinary, e)
		case envdclient.Gap:
			err = t.tell(ctx, terminalGap{Type: "gap", Bytes: e.Bytes})
		case envdclient.Exited:
			err = t.tell(ctx, terminalExit{Type: "exit", exitView: exit(e)})
		}
		if err != nil {
			return err
		}
	}
}

// write gives up a client that does not take a message for the idle limit.
func (t *terminal) write(ctx context.Context, kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, t.server.Limits.Idle)
	defer cancel()
	return t.conn.Write(ctx, kind, data)
}

func (t *terminal) tell(ctx context.Context, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		panic(err) // every message is of a type of ours that can be encoded
	}
	return t.write(ctx, websocket.MessageText, b)
}

// end says why, if the client is still there to hear it.
func (t *terminal) end(ctx context.Context, err error) {
	if errors.Is(err, io.EOF) {
		_ = t.conn.Close(websocket.StatusNormalClosure, "the terminal has ended")
		return
	}
	aboutOf(t.r.Context()).cause = err
	if cause := context.Cause(ctx); cause != nil && models.CodeOf(cause) != models.Invalid {
		return // the client has gone
	} else if cause != nil {
		err = cause
	}
	if t.tellError(context.WithoutCancel(ctx), err) == nil {
		_ = t.conn.Close(websocket.StatusInternalError, string(models.CodeOf(err)))
	}
}

func (t *terminal) tellError(ctx context.Context, err error) error {
	return t.tell(ctx, terminalError{Type: "error", errorBody: body(t.r, err)})
}

// receive reads the client until it goes. Resizes overtake input that the program has not read.
func (t *terminal) receive(ctx context.Context, which envdclient.Selector, input chan<- []byte) error {
	for {
		kind, data, err := t.conn.Read(ctx)
		if err != nil {
			return err
		}
		t.used()
		if kind == websocket.MessageBinary {
			t.stuck.Store(true)
			select {
			case input <- data:
			case <-ctx.Done():
				return ctx.Err()
			}
			t.stuck.Store(false)
			continue
		}
		var control terminalControl
		if err := json.Unmarshal(data, &control); err != nil || control.Type != "resize" {
			return models.Errorf(models.Invalid, "a text message must be {\"type\":\"resize\",\"cols\":…,\"rows\":…}")
		}
		// A terminal that has ended needs no size, and a size that makes no sense changes nothing.
		_ = t.guest.Resize(ctx, which, envdclient.Size{Cols: control.Cols, Rows: control.Rows})
	}
}

// feed passes input on, as fast as the program reads.
func (t *terminal) feed(ctx context.Context, which envdclient.Selector, input <-chan []byte) {
	for {
		select {
		case data := <-input:
			_ = t.guest.SendTerminal(ctx, which, data) // a terminal that has ended takes none: relay tells
		case <-ctx.Done():
			return
		}
	}
}

// keepOpen shows that this side is there, and gives up a client that does not answer for the idle limit.
func (t *terminal) keepOpen(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(t.server.Limits.KeepOpen)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if t.stuck.Load() {
			continue // its answer would not be read
		}
		if err := t.ping(ctx); err != nil && !t.stuck.Load() {
			cancel(err)
			return
		}
	}
}

func (t *terminal) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.server.Limits.Idle)
	defer cancel()
	return t.conn.Ping(ctx)
}
