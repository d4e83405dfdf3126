package api

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func (r *rig) exec(sb, body string) execResult {
	r.t.Helper()
	return decoded[execResult](r.t, r.call("POST", "/v1/sandboxes/"+sb+"/exec", body), http.StatusOK)
}

func TestExec(t *testing.T) {
	r := newRig(t, Limits{Output: 100})
	sb := r.create().ID
	for _, c := range []struct {
		name, body string
		want       execResult
	}{
		{"args", `{"cmd":"echo","args":["a","b c"]}`, execResult{Stdout: "a b c\n"}},
		{"shell", `{"shell":"echo x y"}`, execResult{Stdout: "x y\n"}},
		{"exit status", `{"shell":"exit 3"}`, execResult{exitView: exitView{ExitCode: 3}}},
		{"signal", `{"cmd":"signal","args":["15"]}`, execResult{exitView: exitView{ExitCode: 143, Signal: 15}}},
		{"env", `{"cmd":"env","args":["K"],"env":{"K":"ü"}}`, execResult{Stdout: "ü"}},
		{"cwd", `{"cmd":"pwd","cwd":"/tmp"}`, execResult{Stdout: "/tmp"}},
		{"user", `{"cmd":"whoami","user":"root"}`, execResult{Stdout: "root"}},
		{"stdin", `{"cmd":"cat","stdin":"hello"}`, execResult{Stdout: "hello"}},
		{"empty stdin", `{"cmd":"cat","stdin":""}`, execResult{}},
		{"no stdin", `{"cmd":"cat"}`, execResult{}},
		{"no UTF-8", `{"cmd":"bytes"}`, execResult{Stdout: "\uFFFD"}},
		{"base64", `{"cmd":"bytes","encoding":"base64"}`, execResult{Stdout: "//4=", Encoding: "base64"}},
		{"timeout", `{"cmd":"sleep","timeout_seconds":0.05}`, execResult{exitView: exitView{ExitCode: 137, Signal: 9, TimedOut: true}}},
		{"output at the limit", `{"cmd":"flood","args":["100"]}`, execResult{Stdout: strings.Repeat("x", 100), Stderr: strings.Repeat("x", 100)}},
		{"output beyond the limit", `{"cmd":"flood","args":["300000"]}`, execResult{
			Stdout: strings.Repeat("x", 100), StdoutTruncated: true, Stderr: strings.Repeat("x", 100), StderrTruncated: true}},
	} {
		got := r.exec(sb, c.body)
		if got.DurationMS <= 0 {
			t.Errorf("%s: duration %v", c.name, got.DurationMS)
		}
		got.DurationMS = 0
		if c.want.Encoding == "" {
			c.want.Encoding = "utf-8"
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	e := decoded[errorAnswer](t, r.call("POST", "/v1/sandboxes/"+sb+"/exec", `{"cmd":"vanish"}`), http.StatusInternalServerError).Error
	if e.Code != models.Internal || strings.Contains(e.Message, "vanished") {
		t.Errorf("a program that vanishes: %+v", e)
	}
}

// TestProgramMayTakeLongerThanAnIdleClient: the limit of a slow body does not hold for the wait for an answer.
func TestProgramMayTakeLongerThanAnIdleClient(t *testing.T) {
	r := newRig(t, Limits{Idle: 100 * time.Millisecond})
	if got := r.exec(r.create().ID, `{"cmd":"sleep","timeout_seconds":0.4}`); !got.TimedOut {
		t.Errorf("%+v", got)
	}
}

func TestLargeStdin(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	in := strings.Repeat("0123456789abcdef", 60_000) // several messages
	if got := r.exec(sb, fmt.Sprintf(`{"cmd":"cat","stdin":%q}`, in)); got.Stdout != in || got.StdoutTruncated {
		t.Errorf("%d bytes came back, truncated %v", len(got.Stdout), got.StdoutTruncated)
	}
	if got := r.exec(sb, fmt.Sprintf(`{"cmd":"true","stdin":%q}`, in)); got.ExitCode != 0 { // does not read it
		t.Errorf("%+v", got)
	}
}

// event is a server-sent event.
type event struct{ name, data string }

// openStream starts a program and returns its events as they come. They end with the connection.
func (r *rig) openStream(ctx context.Context, sb, body string) <-chan event {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.server.URL+"/v1/sandboxes/"+sb+"/exec", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(auth.Header, string(r.key))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json;q=0.5, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get(requestIDHeader) == "" {
		r.t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	events := make(chan event, 10_000)
	go func() {
		defer close(events)
		defer resp.Body.Close()
		parse(resp.Body, events)
	}()
	return events
}

func parse(body io.Reader, to chan<- event) {
	var e event
	for lines := bufio.NewReader(body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case line == "\n" && e != event{}:
			to <- e
			e = event{}
		case field == "event":
			e.name = value
		case field == "data":
			e.data = value
		case strings.HasPrefix(line, ":"):
			to <- event{name: "comment"}
		}
	}
}

// outputOf decodes the data of stdout and stderr events.
func outputOf(t *testing.T, e event) string {
	t.Helper()
	var v struct {
		Data string `json:"data"`
	}
	if err := json.Unmarshal([]byte(e.data), &v); err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(v.Data)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestExecStream(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	var got []string
	for e := range r.openStream(t.Context(), sb, `{"cmd":"cat","stdin":"\u0000ü"}`) {
		if e.name == "stdout" {
			e.data = outputOf(t, e)
		}
		got = append(got, e.name+" "+e.data)
	}
	want := []string{`started {"pid":42}`, "stdout \x00ü", `exit {"exit_code":0,"signal":0,"timed_out":false}`}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	n := map[string]int{}
	for e := range r.openStream(t.Context(), sb, `{"cmd":"flood","args":["3000000"]}`) {
		if e.name == "stdout" || e.name == "stderr" {
			n[e.name] += len(outputOf(t, e))
		}
	}
	if n["stdout"] != 3_000_000 || n["stderr"] != 3_000_000 {
		t.Errorf("bytes streamed: %v", n) // no limit holds here
	}
}

// TestExecStreamFails: a failure after the begin is an event, with the same body as an error response.
func TestExecStreamFails(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	events := r.openStream(t.Context(), sb, `{"cmd":"sleep"}`)
	<-events
	r.sim.Kill()
	last := <-events
	var e errorBody
	if err := json.Unmarshal([]byte(last.data), &e); err != nil || last.name != "error" || e.Code != models.Unavailable || e.RequestID == "" {
		t.Errorf("last event %+v, %v", last, err)
	}
	if more, ok := <-events; ok {
		t.Errorf("after the error came %+v", more)
	}
	a := r.call("POST", "/v1/sandboxes/"+sb+"/exec", `{"cmd":"true"}`)
	if e := decoded[errorAnswer](t, a, http.StatusServiceUnavailable).Error; e.Code != models.Unavailable {
		t.Errorf("exec without an agent: %+v", e)
	}
	r.sim.Restart()
	r.eventually("exec works again", func() bool {
		return r.call("POST", "/v1/sandboxes/"+sb+"/exec", `{"cmd":"true"}`).status == http.StatusOK
	})
}

func TestStreamIsKeptOpen(t *testing.T) {
	r := newRig(t, Limits{KeepOpen: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := r.openStream(ctx, r.create().ID, `{"cmd":"sleep"}`)
	<-events
	for range 3 {
		if e := <-events; e.name != "comment" {
			t.Errorf("event %+v", e)
		}
	}
}

// TestClientThatGoesAwayKillsItsProgram, streamed or not.
func TestClientThatGoesAwayKillsItsProgram(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	programs := func() int {
		_, _, _, n := r.sim.Counts()
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := r.openStream(ctx, sb, `{"cmd":"sleep"}`)
	<-events
	if programs() != 1 {
		t.Errorf("%d programs run", programs())
	}
	cancel()
	r.eventually("the streamed program is killed", func() bool { return programs() == 0 })

	ctx, cancel = context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.server.URL+"/v1/sandboxes/"+sb+"/exec", strings.NewReader(`{"cmd":"sleep"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(auth.Header, string(r.key))
	req.Header.Set("Content-Type", "application/json")
	done := make(chan error, 1)
	go func() {
		_, err := http.DefaultClient.Do(req)
		done <- err
	}()
	r.eventually("the program runs", func() bool { return programs() == 1 })
	cancel()
	if <-done == nil {
		t.Error("a cancelled request was answered")
	}
	r.eventually("the program is killed", func() bool { return programs() == 0 })
}
