package wrenn

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"time"
)

// ExecuteRequest says what to execute in a context.
type ExecuteRequest struct {
	Code string // UTF-8, at most some 1 MiB
	// Timeout is when it is interrupted: at most 24 hours; 0 means 5 minutes. Code that does not heed that within 10 seconds
	// costs the context.
	Timeout time.Duration
}

// ExecutionStatus says how code ended. New ones may appear.
type ExecutionStatus string

// The statuses of executions.
const (
	ExecutionOK          ExecutionStatus = "ok"
	ExecutionFailed      ExecutionStatus = "error"
	ExecutionInterrupted ExecutionStatus = "interrupted"
	ExecutionTimedOut    ExecutionStatus = "timed_out"
)

// Execution is what came of code.
type Execution struct {
	Status           ExecutionStatus   `json:"status"`
	ExecutionCount   int               `json:"execution_count,omitempty"` // 0 when the code never began
	Stdout           string            `json:"stdout"`                    // at most the first 1 MiB
	Stderr           string            `json:"stderr"`                    // at most the first 1 MiB
	StdoutTruncated  bool              `json:"stdout_truncated"`
	StderrTruncated  bool              `json:"stderr_truncated"`
	Results          []ExecutionResult `json:"results"` // at most 64, of 16 MiB together
	ResultsTruncated bool              `json:"results_truncated"`
	Error            *ExecutionError   `json:"error,omitempty"`
	DurationMS       float64           `json:"duration_ms"`
}

// ExecutionResult is one value, in several forms.
type ExecutionResult struct {
	Main bool `json:"main"` // it is the value of the code's last expression
	// Data has the forms by MIME type: "text/plain" always, and others, such as "image/png" (base64) or
	// "application/json", as the value has them.
	Data map[string]json.RawMessage `json:"data"`
}

// Text is the form of a result that is text, such as "text/plain" or "image/png"; "" where it has none.
func (r ExecutionResult) Text(mimeType string) string {
	var text string
	_ = json.Unmarshal(r.Data[mimeType], &text) // what is no text has none
	return text
}

// ExecutionError is an error of the code, in the words of its language.
type ExecutionError struct {
	Name      string   `json:"name"`
	Value     string   `json:"value"`
	Traceback []string `json:"traceback"`
}

// Execute executes code and returns all that came of it. An error of the code is no error. When ctx ends, the code is
// interrupted; the context stays. Repeated, it is executed at most once.
func (c *Client) Execute(ctx context.Context, id, contextID string, req ExecuteRequest) (*Execution, error) {
	call, err := req.call(id, contextID)
	if err != nil {
		return nil, err
	}
	limit := req.Timeout
	if limit == 0 {
		limit = defaultExecTimeout
	}
	ctx, cancel := c.bounded(ctx, limit+c.opts.Timeout)
	defer cancel()
	var x Execution
	if err := c.exchange(ctx, call, &x); err != nil {
		return nil, err
	}
	return &x, nil
}

func (r ExecuteRequest) call(id, contextID string) (request, error) {
	path, err := contextPath(id, contextID, "execute")
	if err != nil {
		return request{}, err
	}
	if err := encodable("code", func(yield func(string) bool) { yield(r.Code) }); err != nil {
		return request{}, err
	}
	body, err := encode(struct {
		Code    string  `json:"code"`
		Timeout float64 `json:"timeout_seconds,omitempty"`
	}{r.Code, r.Timeout.Seconds()})
	return request{method: http.MethodPost, path: path, body: body}, err
}

// The kinds of events of an execution beside Stdout, Stderr and Gap.
const (
	Result    EventKind = "result"
	CodeError EventKind = "error"
	Ended     EventKind = "end"
)

// ExecutionEvent is one event of code that runs.
type ExecutionEvent struct {
	Kind           EventKind
	Text           string          // of Stdout and Stderr
	Bytes          int64           // how much is missing; of Gap
	Result         ExecutionResult // of Result
	Error          ExecutionError  // of CodeError
	Status         ExecutionStatus // of Ended
	ExecutionCount int             // of Ended; 0 when the code never began
}

// ExecutionStream is code that runs, as a stream of events. It is for one goroutine; Close may be called by another.
type ExecutionStream struct {
	*eventStream
	ended bool
}

// ExecuteStream executes code and returns its events as they happen. The caller must call Close. When ctx ends or the
// stream is closed before the end, the code is interrupted; the context stays.
func (c *Client) ExecuteStream(ctx context.Context, id, contextID string, req ExecuteRequest) (*ExecutionStream, error) {
	call, err := req.call(id, contextID)
	if err != nil {
		return nil, err
	}
	events, err := c.events(ctx, call)
	if err != nil {
		return nil, err
	}
	return &ExecutionStream{eventStream: events}, nil
}

// Close ends the stream, and interrupts the code if it still runs. It may be called again.
func (s *ExecutionStream) Close() error { return s.eventStream.Close() }

// Events goes through the events, the last of which is Ended or an error: an *Error of the service, as when the interpreter
// has crashed, the context's, or io.ErrUnexpectedEOF when the connection ended before.
func (s *ExecutionStream) Events() iter.Seq2[ExecutionEvent, error] {
	return func(yield func(ExecutionEvent, error) bool) {
		for !s.ended {
			event, err := s.next()
			s.ended = err != nil || event.Kind == Ended
			if !yield(event, err) {
				return
			}
		}
	}
}

// next returns the next event that is known; others are for newer clients.
func (s *ExecutionStream) next() (ExecutionEvent, error) {
	for {
		e, err := s.read()
		if err != nil {
			return ExecutionEvent{}, err
		}
		event, err := parseExecutionEvent(e)
		if err != nil || event.Kind != "" {
			return event, err
		}
	}
}

func parseExecutionEvent(e event) (ExecutionEvent, error) {
	out := ExecutionEvent{Kind: EventKind(e.name)}
	var into any
	switch out.Kind {
	case Stdout, Stderr:
		into = &struct{ Text *string }{&out.Text}
	case Gap:
		into = &struct{ Bytes *int64 }{&out.Bytes}
	case Result:
		into = &out.Result
	case CodeError:
		into = &out.Error
	case Ended:
		into = &struct {
			Status *ExecutionStatus
			Count  *int `json:"execution_count"`
		}{&out.Status, &out.ExecutionCount}
	case "failure":
		return ExecutionEvent{}, streamError(e.data)
	default:
		return ExecutionEvent{}, nil
	}
	if err := json.Unmarshal(e.data, into); err != nil {
		return ExecutionEvent{}, fmt.Errorf("decode event %s: %w", e.name, err)
	}
	return out, nil
}
