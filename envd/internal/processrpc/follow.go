package processrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
)

// errAbandoned is wrapped by the end of a call whose caller has gone away.
var errAbandoned = errors.New("the caller went away")

// follower sends a process's events to one caller.
type follower struct {
	p         *process.Process
	reader    *process.Reader
	keepalive time.Duration
	extended  bool
	send      func(*EventResponse) error
}

// follow sends the start event, the output, keepalives and the end event.
func (f *follower) follow(ctx context.Context) error {
	start := &StartEvent{PID: uint32(f.p.PID())}
	if f.extended {
		start.Offset = f.reader.Offset()
	}
	if err := f.event(&ProcessEvent{Start: start}); err != nil {
		return err
	}
	timer := time.NewTimer(f.keepalive)
	defer timer.Stop()
	for {
		chunk, err := f.reader.Next()
		switch {
		case err == nil:
			err = f.event(data(chunk))
			timer.Reset(f.keepalive)
		case errors.Is(err, io.EOF):
			return f.end(ctx)
		case errors.Is(err, process.ErrEmpty):
			err = f.wait(ctx, timer)
		default:
			err = wireError(err)
		}
		if err != nil {
			return err
		}
	}
}

// wait waits until there may be output, sending keepalives meanwhile.
func (f *follower) wait(ctx context.Context, timer *time.Timer) error {
	select {
	case <-f.reader.Wake():
		return nil
	case <-timer.C:
		timer.Reset(f.keepalive)
		return f.event(&ProcessEvent{Keepalive: &Empty{}})
	case <-ctx.Done():
		return abandoned(ctx.Err())
	}
}

func (f *follower) event(e *ProcessEvent) error {
	if err := f.send(&EventResponse{Event: e}); err != nil {
		return abandoned(err)
	}
	return nil
}

func abandoned(err error) error { return fmt.Errorf("%w: %w", errAbandoned, err) }

func data(c process.Chunk) *ProcessEvent {
	switch {
	case c.Gap > 0:
		return &ProcessEvent{Gap: &GapEvent{Bytes: c.Gap}}
	case c.Stream == process.Stderr:
		return &ProcessEvent{Data: &DataEvent{Stderr: c.Data}}
	case c.Stream == process.Terminal:
		return &ProcessEvent{Data: &DataEvent{PTY: c.Data}}
	}
	return &ProcessEvent{Data: &DataEvent{Stdout: c.Data}}
}

// end reports how the process ended. A timeout is an error of the call, as E2B's protocol has it, except to a caller that
// can be told in the end event.
func (f *follower) end(ctx context.Context) error {
	select {
	case <-f.p.Done(): // a moment after the end of the output
	case <-ctx.Done():
		return abandoned(ctx.Err())
	}
	exit := f.p.Exit()
	if exit.TimedOut && !f.extended {
		return connect.Errorf(connect.DeadlineExceeded, "the process was killed when its time of %s had run out", f.p.Spec().Timeout)
	}
	return f.event(&ProcessEvent{End: endEvent(exit, f.extended)})
}

// endEvent describes an exit in the words of os.ProcessState, which clients of the protocol know.
func endEvent(exit process.Exit, extended bool) *EndEvent {
	status := fmt.Sprintf("exit status %d", exit.Code)
	if exit.Signal != 0 {
		status = "signal: " + exit.Signal.String()
		if exit.Core {
			status += " (core dumped)"
		}
	}
	event := &EndEvent{ExitCode: int32(exit.Code), Exited: exit.Signal == 0, Status: status}
	if exit.Code != 0 {
		event.Error = &status
	}
	if extended {
		event.Signal, event.TimedOut, event.OOMKilled = int32(exit.Signal), exit.TimedOut, exit.OOMKilled
	}
	return event
}
