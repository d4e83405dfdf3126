package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

// EventKind says what an ExecEvent is.
type EventKind string

// The kinds of events: one Started, any number of Stdout and Stderr, one Exited.
const (
	Started EventKind = "started"
	Stdout  EventKind = "stdout"
	Stderr  EventKind = "stderr"
	Exited  EventKind = "exit"
)

// ExecEvent is one event of a running program.
type ExecEvent struct {
	Kind EventKind
	PID  int      // in the guest; of Started
	Data []byte   // the caller's to keep; of Stdout and Stderr
	Exit ExecExit // of Exited
}

// ExecStream is a program that runs, as a stream of events. It is for one goroutine; Close may be called by another.
type ExecStream struct {
	*eventStream
	ended bool
}

// ExecStream starts a program and returns its events as they happen. The caller must call Close. When ctx
// ends or the stream is closed before the program's end, the program and all that it started are killed.
func (c *Client) ExecStream(ctx context.Context, id string, req ExecRequest) (*ExecStream, error) {
	call, err := req.call(id)
	if err != nil {
		return nil, err
	}
	events, err := c.events(ctx, call)
	if err != nil {
		return nil, err
	}
	return &ExecStream{eventStream: events}, nil
}

// Close ends the stream, and the program if it still runs. It may be called again.
func (s *ExecStream) Close() error { return s.eventStream.Close() }

// Events goes through the events, the last of which is Exited or an error: an *Error of the service, the context's,
// or io.ErrUnexpectedEOF when the connection ended before the program. Breaking off the loop leaves the rest to the next call.
func (s *ExecStream) Events() iter.Seq2[ExecEvent, error] {
	return func(yield func(ExecEvent, error) bool) {
		for !s.ended {
			event, err := s.next()
			s.ended = err != nil || event.Kind == Exited
			if !yield(event, err) {
				return
			}
		}
	}
}

// Copy writes the output to stdout and stderr (nil for nowhere) as it comes, until the program ends.
func (s *ExecStream) Copy(stdout, stderr io.Writer) (ExecExit, error) {
	for event, err := range s.Events() {
		var to io.Writer
		switch {
		case err != nil:
			return ExecExit{}, err
		case event.Kind == Exited:
			return event.Exit, nil
		case event.Kind == Stdout:
			to = stdout
		case event.Kind == Stderr:
			to = stderr
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(event.Data); err != nil {
			return ExecExit{}, fmt.Errorf("write output: %w", err)
		}
	}
	return ExecExit{}, errors.New("the stream was read to its end before")
}

// next returns the next event that is known; others are for newer clients.
func (s *ExecStream) next() (ExecEvent, error) {
	for {
		e, err := s.read()
		if err != nil {
			return ExecEvent{}, err
		}
		event, err := parseEvent(e.name, e.data)
		if err != nil || event.Kind != "" {
			return event, err
		}
	}
}

func parseEvent(name string, data []byte) (ExecEvent, error) {
	e := ExecEvent{Kind: EventKind(name)}
	var err error
	switch e.Kind {
	case Started:
		err = json.Unmarshal(data, &struct{ PID *int }{&e.PID})
	case Stdout, Stderr:
		err = json.Unmarshal(data, &struct{ Data *[]byte }{&e.Data})
	case Exited:
		err = json.Unmarshal(data, &e.Exit)
	case "error":
		return ExecEvent{}, streamError(data)
	default:
		return ExecEvent{}, nil
	}
	if err != nil {
		return ExecEvent{}, fmt.Errorf("decode event %s: %w", name, err)
	}
	return e, nil
}
