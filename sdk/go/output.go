package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"
)

// The kinds of events of a process beside Stdout, Stderr and Exited.
const (
	PTYOutput EventKind = "pty" // what a program wrote to its terminal
	Gap       EventKind = "gap" // output that is missing here: it is not kept any more, or came faster than it was read
)

// FromNow as an offset means what comes next.
const FromNow = -1

// ProcessEvent is one event of a program.
type ProcessEvent struct {
	Kind   EventKind
	Data   []byte   // the caller's to keep; of Stdout, Stderr and PTYOutput
	Bytes  int64    // how much is missing; of Gap
	Offset int64    // where in the output the next event begins
	Exit   ExecExit // of Exited
}

const (
	// reconnectFor is how long a broken connection is taken up again, if nothing comes of it.
	reconnectFor = time.Minute
	// reconnectMost is the longest wait between two attempts.
	reconnectMost = 5 * time.Second
)

// ProcessStream follows a program's output, one sequence of bytes whatever stream they came from. A connection that breaks
// is taken up again where it was, for up to a minute. It is for one goroutine; Close may be called by another.
type ProcessStream struct {
	PID    int
	client *Client
	id     string
	ctx    context.Context
	cancel context.CancelFunc
	events *eventStream
	offset int64
	since  time.Time // when the connection broke; zero since there was an event
	ended  bool
}

// RunProcess starts a program and follows its output from the beginning. As long as the connection lasts, nothing of it is lost:
// the program waits until it is read. The program outlives the stream: kill it with KillProcess when it is not wanted
// any more. It is never repeated after it was sent. The caller must call Close.
func (c *Client) RunProcess(ctx context.Context, id string, req ProcessRequest) (*ProcessStream, error) {
	path, err := sandboxPath(id, "processes")
	if err != nil {
		return nil, err
	}
	call := request{method: http.MethodPost, path: path}
	if call.body, err = req.body(); err != nil {
		return nil, err
	}
	s := c.processStream(ctx, id)
	if err := s.open(call); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// ProcessOutput follows a program's output from offset on, 0 for all that is kept and FromNow for what comes next. It
// does not hold up the program: what comes faster than it is read, and what is not kept any more, is told as a Gap. The
// caller must call Close, which leaves the program as it is.
func (c *Client) ProcessOutput(ctx context.Context, id string, pid int, offset int64) (*ProcessStream, error) {
	s := c.processStream(ctx, id)
	s.PID, s.offset = pid, offset
	if err := s.attach(); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

func (c *Client) processStream(ctx context.Context, id string) *ProcessStream {
	s := &ProcessStream{client: c, id: id}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// attach opens the stream at s.offset.
func (s *ProcessStream) attach() error {
	path, err := processPath(s.id, s.PID)
	if err != nil {
		return err
	}
	offset := strconv.FormatInt(s.offset, 10)
	call := request{method: http.MethodGet, path: path + "/output?offset=" + offset}
	if s.offset >= 0 {
		call.header = map[string]string{"Last-Event-ID": offset}
	}
	return s.open(call)
}

// open makes the call and reads its first event.
func (s *ProcessStream) open(call request) error {
	events, err := s.client.events(s.ctx, call)
	if err != nil {
		return err
	}
	first, err := events.read()
	var started struct {
		PID    int
		Offset int64
	}
	switch {
	case err != nil:
	case first.name == "error":
		err = streamError(first.data)
	case first.name != "started":
		err = fmt.Errorf("the stream of a process begins with %q", first.name)
	default:
		err = json.Unmarshal(first.data, &started)
	}
	if err != nil {
		events.Close()
		return err
	}
	s.events, s.PID, s.offset = events, started.PID, started.Offset
	return nil
}

// Close ends the stream, not the program. It may be called again.
func (s *ProcessStream) Close() error {
	s.cancel()
	return nil
}

// Offset is where in the output the next event begins.
func (s *ProcessStream) Offset() int64 { return s.offset }

// Events goes through the events, the last of which is Exited or an error: an *Error of the service, the context's, or that
// of a connection that could not be taken up again. After an error the program may go on. Breaking off the loop leaves the
// rest to the next call.
func (s *ProcessStream) Events() iter.Seq2[ProcessEvent, error] {
	return func(yield func(ProcessEvent, error) bool) {
		for !s.ended {
			event, err := s.next()
			s.ended = err != nil || event.Kind == Exited
			if s.ended {
				s.events.Close()
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

// Copy writes the output to stdout and stderr (nil for nowhere) as it comes, until the program ends. A terminal's output
// goes to stdout. Output that is missing is an error, when the program has ended.
func (s *ProcessStream) Copy(stdout, stderr io.Writer) (ExecExit, error) {
	var missing int64
	for event, err := range s.Events() {
		var to io.Writer
		switch {
		case err != nil:
			return ExecExit{}, err
		case event.Kind == Exited && missing > 0:
			return event.Exit, &MissingOutputError{Bytes: missing}
		case event.Kind == Exited:
			return event.Exit, nil
		case event.Kind == Gap:
			missing += event.Bytes
		case event.Kind == Stderr:
			to = stderr
		default:
			to = stdout
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

// MissingOutputError says that a program has ended, but not all of its output could be had.
type MissingOutputError struct{ Bytes int64 }

// Error says how much is missing.
func (e *MissingOutputError) Error() string {
	return fmt.Sprintf("%d bytes of the program's output are missing", e.Bytes)
}

// next returns the next event that is known; others are for newer clients.
func (s *ProcessStream) next() (ProcessEvent, error) {
	for {
		e, err := s.events.read()
		if err == nil && e.name == "error" {
			err = streamError(e.data)
		}
		if err != nil {
			if err := s.resume(err); err != nil {
				return ProcessEvent{}, err
			}
			continue
		}
		s.since = time.Time{}
		event, err := s.parse(e)
		if err != nil || event.Kind != "" {
			return event, err
		}
	}
}

func (s *ProcessStream) parse(e event) (ProcessEvent, error) {
	out := ProcessEvent{Kind: EventKind(e.name)}
	var err error
	switch out.Kind {
	case Stdout, Stderr, PTYOutput:
		err = json.Unmarshal(e.data, &struct{ Data *[]byte }{&out.Data})
		s.offset += int64(len(out.Data))
	case Gap:
		err = json.Unmarshal(e.data, &struct{ Bytes *int64 }{&out.Bytes})
		s.offset += out.Bytes
	case Exited:
		err = json.Unmarshal(e.data, &out.Exit)
	default:
		return ProcessEvent{}, nil
	}
	if err != nil {
		return ProcessEvent{}, fmt.Errorf("decode event %s: %w", e.name, err)
	}
	out.Offset = s.offset
	return out, nil
}

// resume attaches again after a connection broke with cause. It returns why that cannot be.
func (s *ProcessStream) resume(cause error) error {
	s.events.Close()
	if s.since.IsZero() {
		s.since = time.Now()
	}
	for wait := s.client.backoff; ; wait = min(2*wait, reconnectMost) {
		switch {
		case s.ctx.Err() != nil:
			return s.ctx.Err()
		case !broken(cause):
			return cause
		case time.Since(s.since) > reconnectFor:
			return fmt.Errorf("the connection could not be taken up again: %w", cause)
		}
		if err := pause(s.ctx, wait); err != nil {
			return err
		}
		if cause = s.attach(); cause == nil {
			return nil
		}
	}
}

// broken tells whether an error is of the way to the process, not of the process.
func broken(err error) bool {
	var coded *Error
	return !errors.As(err, &coded) || coded.Code == Unavailable || coded.Code == Deadline
}
