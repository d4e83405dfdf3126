package wrenn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
)

// maxEvent is the longest event that is accepted, in bytes. The service sends output in
// pieces far below it.
const maxEvent = 4 << 20

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
	body   io.ReadCloser
	reader *bufio.Reader
	cancel context.CancelFunc
	ended  bool
}

// ExecStream starts a program and returns its events as they happen. The caller must call Close. When ctx
// ends or the stream is closed before the program's end, the program and all that it started are killed.
func (c *Client) ExecStream(ctx context.Context, id string, req ExecRequest) (*ExecStream, error) {
	call, err := req.call(id)
	if err != nil {
		return nil, err
	}
	call.accept = "text/event-stream"
	ctx, cancel := context.WithCancel(ctx)
	resp, err := c.send(ctx, call)
	if err != nil {
		cancel()
		return nil, err
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/event-stream" {
		cancel()
		resp.Body.Close()
		return nil, fmt.Errorf("the service did not answer with a stream of events but with %q", resp.Header.Get("Content-Type"))
	}
	return &ExecStream{body: resp.Body, reader: bufio.NewReaderSize(resp.Body, 64<<10), cancel: cancel}, nil
}

// Close ends the stream, and the program if it still runs. It may be called again.
func (s *ExecStream) Close() error {
	s.cancel()
	return s.body.Close()
}

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
		name, data, err := readEvent(s.reader)
		if err != nil {
			return ExecEvent{}, fmt.Errorf("read events: %w", err)
		}
		event, err := parseEvent(name, data)
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

func streamError(data []byte) error {
	var body struct {
		Code      Code   `json:"code"`
		Message   string `json:"message"`
		Hint      string `json:"hint"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(data, &body); err != nil || body.Code == "" {
		return &Error{Code: Internal, Status: http.StatusOK, Message: "the stream ended with an error without an explanation"}
	}
	return &Error{Code: body.Code, Message: body.Message, Hint: body.Hint, RequestID: body.RequestID, Status: http.StatusOK}
}

// readEvent reads one server-sent event: lines up to an empty one (HTML standard, section 9.2).
func readEvent(r *bufio.Reader) (name string, data []byte, err error) {
	for size := 0; ; {
		line, err := readLine(r, maxEvent-size)
		if err != nil {
			return "", nil, err
		}
		size += len(line)
		if len(line) == 0 {
			if name != "" || data != nil {
				return name, bytes.TrimSuffix(data, []byte("\n")), nil
			}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "data":
			data = append(append(data, value...), '\n')
		}
	}
}

// readLine reads a line of at most limit bytes, without its end. A stream that ends is unexpected.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, fmt.Errorf("an event is longer than %d bytes", maxEvent)
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
