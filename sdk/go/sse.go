package wrenn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// maxEvent is the longest event that is accepted, in bytes. The service sends output in
// pieces far below it; the result of an execution may be large.
const maxEvent = 32 << 20

// eventStream is an answer of server-sent events.
type eventStream struct {
	body   io.ReadCloser
	reader *bufio.Reader
	cancel context.CancelCauseFunc
}

// maxSilence is how long a stream may give nothing, while it is read. The service sends something every 15 seconds.
const maxSilence = time.Minute

var errSilent = errors.New("the service has gone silent")

// alive ends a stream that gives nothing for too long. A reader that takes its time is no silence.
type alive struct {
	io.Reader
	silent func()
	limit  time.Duration
}

func (a alive) Read(b []byte) (int, error) {
	timer := time.AfterFunc(a.limit, a.silent)
	defer timer.Stop()
	return a.Reader.Read(b)
}

// event is one server-sent event.
type event struct {
	id, name string
	data     []byte
}

// events makes a call whose answer is a stream of events. The stream ends with ctx; the caller closes it.
func (c *Client) events(ctx context.Context, call request) (*eventStream, error) {
	call.accept = "text/event-stream"
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := c.send(ctx, call)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if kind := contentType(resp); kind != "text/event-stream" {
		cancel(nil)
		resp.Body.Close()
		return nil, fmt.Errorf("the service did not answer with a stream of events but with %q", kind)
	}
	watched := alive{Reader: resp.Body, silent: func() { cancel(errSilent) }, limit: c.silence}
	return &eventStream{body: resp.Body, reader: bufio.NewReaderSize(watched, 64<<10), cancel: cancel}, nil
}

// contentType is that of an answer, without its parameters.
func contentType(resp *http.Response) string {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return resp.Header.Get("Content-Type")
	}
	return kind
}

// Close ends the stream. It may be called again, and by another goroutine.
func (s *eventStream) Close() error {
	s.cancel(nil)
	return s.body.Close()
}

// read returns the next event.
func (s *eventStream) read() (event, error) {
	e, err := readEvent(s.reader)
	if err != nil {
		return event{}, fmt.Errorf("read events: %w", err)
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
func readEvent(r *bufio.Reader) (event, error) {
	var e event
	for size := 0; ; {
		line, err := readLine(r, maxEvent-size)
		if err != nil {
			return event{}, err
		}
		size += len(line)
		if len(line) == 0 {
			if e.name != "" || e.data != nil {
				e.data = bytes.TrimSuffix(e.data, []byte("\n"))
				return e, nil
			}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			e.name = string(value)
		case "id":
			e.id = string(value)
		case "data":
			e.data = append(append(e.data, value...), '\n')
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
