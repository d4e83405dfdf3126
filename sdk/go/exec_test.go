package wrenn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestExecKeepsEveryByte(t *testing.T) {
	out := "caf\xe9\x00\n"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got map[string]any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		want := map[string]any{"cmd": "cat", "args": []any{"-"}, "cwd": "/tmp", "env": map[string]any{"A": "b"}, "user": "root",
			"stdin": "in", "timeout_seconds": 1.5, "encoding": "base64"}
		if r.URL.Path != "/v1/sandboxes/"+testID+"/exec" || !reflect.DeepEqual(got, want) {
			t.Errorf("%s %v", r.URL, got)
		}
		answer(w, 200, `{"exit_code":137,"signal":9,"timed_out":true,"oom_killed":true,"stdout":"`+base64.StdEncoding.EncodeToString([]byte(out))+
			`","stderr":"","stdout_truncated":true,"stderr_truncated":false,"encoding":"base64","duration_ms":1500.25}`)
	})
	got, err := c.Exec(t.Context(), testID, ExecRequest{Cmd: "cat", Args: []string{"-"}, Cwd: "/tmp", Env: map[string]string{"A": "b"},
		User: "root", Stdin: "in", Timeout: 1500 * time.Millisecond})
	want := &ExecResult{ExecExit: ExecExit{137, 9, true, true}, Stdout: out, StdoutTruncated: true, Duration: 1500250 * time.Microsecond}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestExecAcceptsPlainTextAndRefusesBadBase64(t *testing.T) {
	encoding := "utf-8"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, `{"exit_code":0,"signal":0,"timed_out":false,"stdout":"!!","stderr":"","encoding":"`+encoding+`","duration_ms":1}`)
	})
	if got, err := c.Exec(t.Context(), testID, ExecRequest{Shell: "x"}); err != nil || got.Stdout != "!!" {
		t.Errorf("%+v, %v", got, err)
	}
	encoding = "base64"
	if _, err := c.Exec(t.Context(), testID, ExecRequest{Shell: "x"}); err == nil {
		t.Error("bad base64 was accepted")
	}
}

// events answers with a stream made of text.
func events(t *testing.T, text string) *Client {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("Accept %q", r.Header.Get("Accept"))
		}
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, text)
	})
}

func stream(t *testing.T, c *Client) *ExecStream {
	t.Helper()
	s, err := c.ExecStream(t.Context(), testID, ExecRequest{Shell: "x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

const started = "event: started\ndata: {\"pid\":42}\n\n"

func TestStreamGivesEventsInOrder(t *testing.T) {
	s := stream(t, events(t, started+": keep-alive\n\nevent: stdout\r\ndata: {\"data\":\"aGk=\"}\r\n\r\nevent: news\ndata: 1\n\n"+
		"event:stderr\ndata:{\"data\":\ndata:\"/w==\"}\nid: 7\nretry: 3\n\nevent: exit\ndata: {\"exit_code\":3,\"signal\":0,\"timed_out\":false}\n\nevent: stdout\ndata: {}\n\n"))
	var got []ExecEvent
	for e, err := range s.Events() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []ExecEvent{{Kind: Started, PID: 42}, {Kind: Stdout, Data: []byte("hi")}, {Kind: Stderr, Data: []byte{0xff}}, {Kind: Exited, Exit: ExecExit{ExitCode: 3}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	for _, err := range s.Events() {
		t.Errorf("an event after the end, %v", err)
	}
	if _, err := s.Copy(nil, nil); err == nil {
		t.Error("a second Copy succeeded")
	}
}

func TestLoopCanBeTakenUpAgain(t *testing.T) {
	s := stream(t, events(t, started+"event: exit\ndata: {\"exit_code\":5}\n\n"))
	for e, err := range s.Events() {
		if err != nil || e.Kind != Started {
			t.Fatalf("%+v, %v", e, err)
		}
		break
	}
	if exit, err := s.Copy(nil, nil); err != nil || exit.ExitCode != 5 {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestCopySeparatesTheOutputs(t *testing.T) {
	s := stream(t, events(t, started+"event: stdout\ndata: {\"data\":\"b3V0\"}\n\nevent: stderr\ndata: {\"data\":\"ZXJy\"}\n\nevent: exit\ndata: {\"exit_code\":0}\n\n"))
	var out, errs bytes.Buffer
	if _, err := s.Copy(&out, &errs); err != nil || out.String() != "out" || errs.String() != "err" {
		t.Errorf("%q %q %v", out.String(), errs.String(), err)
	}
}

func TestStreamSaysHowItFailed(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		ok   func(error) bool
	}{
		"cut off":  {started, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"mid-line": {"event: star", func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"error": {started + `event: error` + "\n" + `data: {"code":"unavailable","message":"gone","hint":"h","request_id":"r"}` + "\n\n",
			func(err error) bool {
				var e *Error
				return errors.As(err, &e) && *e == Error{Unavailable, "gone", "h", "r", 200}
			}},
		"bare error":    {"event: error\ndata: boom\n\n", func(err error) bool { return CodeOf(err) == Internal }},
		"bad base64":    {"event: stdout\ndata: {\"data\":\"!\"}\n\n", func(err error) bool { return strings.Contains(err.Error(), "decode event stdout") }},
		"endless line":  {"data: " + strings.Repeat("x", maxEvent+1), func(err error) bool { return strings.Contains(err.Error(), "longer than") }},
		"endless event": {strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n", maxEvent>>20+2), func(err error) bool { return strings.Contains(err.Error(), "longer than") }},
	} {
		_, err := stream(t, events(t, c.text)).Copy(nil, nil)
		if err == nil || !c.ok(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorBeforeTheStreamIsOrdinary(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 409, `{"error":{"code":"precondition","message":"it is stopped","request_id":"r"}}`)
	})
	if _, err := c.ExecStream(t.Context(), testID, ExecRequest{Cmd: "x"}); CodeOf(err) != Precondition {
		t.Errorf("%v", err)
	}
	c = serve(t, func(w http.ResponseWriter, r *http.Request) { answer(w, 200, "{}") })
	if _, err := c.ExecStream(t.Context(), testID, ExecRequest{Cmd: "x"}); err == nil || !strings.Contains(err.Error(), "application/json") {
		t.Errorf("an answer that is no stream: %v", err)
	}
}

// endless streams output until the client goes away, then closes gone.
func endless(t *testing.T) (c *Client, gone chan struct{}) {
	t.Helper()
	gone = make(chan struct{})
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if _, err := fmt.Fprint(w, "event: stdout\ndata: {\"data\":\"eA==\"}\n\n"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}), gone
}

func TestCloseEndsTheProgram(t *testing.T) {
	c, gone := endless(t)
	s := stream(t, c)
	for _, err := range s.Events() {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	s.Close()
	<-gone
	if _, err := s.Copy(nil, nil); err == nil {
		t.Error("a closed stream reported the program's end")
	}
}

func TestContextEndsTheStream(t *testing.T) {
	c, gone := endless(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.ExecStream(ctx, testID, ExecRequest{Shell: "yes"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	if _, err := s.Copy(nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-gone
}

func TestFailingWriterEndsCopy(t *testing.T) {
	c, _ := endless(t)
	want := errors.New("disk full")
	if _, err := stream(t, c).Copy(failing{want}, nil); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzReadEvent(f *testing.F) {
	f.Add(started)
	f.Add("data\n\n:\n\r\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := bufio.NewReader(strings.NewReader(text))
		for range len(text) + 1 {
			e, err := readEvent(r)
			if err != nil {
				return
			}
			_, _ = parseEvent(e.name, e.data) // must not panic
		}
		t.Error("more events than bytes")
	})
}
