package api

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func (r *rig) exec(sb, body string) execResult {
	r.t.Helper()
	return decoded[execResult](r.t, r.call("POST", "/v1/sandboxes/"+sb+"/exec", body), http.StatusOK)
}

// flood and a number print that many x.
const flood = `head -c 10000000 /dev/zero | tr '\\0' x | head -c`

func TestExec(t *testing.T) {
	r := newRig(t, Limits{Output: 100})
	sb := r.create().ID
	for _, c := range []struct {
		name, body string
		want       execResult
	}{
		{"args", `{"cmd":"echo","args":["a","b c"]}`, execResult{Stdout: "a b c\n"}},
		{"shell", `{"shell":"echo x; echo y >&2"}`, execResult{Stdout: "x\n", Stderr: "y\n"}},
		{"exit status", `{"shell":"exit 3"}`, execResult{exitView: exitView{ExitCode: 3}}},
		{"signal", `{"shell":"kill -TERM $$"}`, execResult{exitView: exitView{ExitCode: 143, Signal: 15}}},
		{"env", `{"shell":"printf %s \"$K\"","env":{"K":"ü"}}`, execResult{Stdout: "ü"}},
		{"cwd", `{"cmd":"pwd","cwd":"/usr"}`, execResult{Stdout: "/usr\n"}},
		{"user", `{"cmd":"id","args":["-un"],"user":"root"}`, execResult{Stdout: "root\n"}},
		{"stdin", `{"cmd":"cat","stdin":"hello"}`, execResult{Stdout: "hello"}},
		{"empty stdin", `{"cmd":"cat","stdin":""}`, execResult{}},
		{"no stdin", `{"cmd":"cat"}`, execResult{}},
		{"no UTF-8", `{"shell":"printf '\\377\\376'"}`, execResult{Stdout: "\uFFFD"}},
		{"base64", `{"shell":"printf '\\377\\376'","encoding":"base64"}`, execResult{Stdout: "//4=", Encoding: "base64"}},
		{"timeout", `{"cmd":"sleep","args":["600"],"timeout_seconds":0.05}`, execResult{exitView: exitView{ExitCode: 137, Signal: 9, TimedOut: true}}},
		{"output at the limit", `{"shell":"` + flood + ` 100; ` + flood + ` 100 >&2"}`, execResult{Stdout: strings.Repeat("x", 100), Stderr: strings.Repeat("x", 100)}},
		{"output beyond the limit", `{"shell":"` + flood + ` 300000; ` + flood + ` 300000 >&2"}`, execResult{
			Stdout: strings.Repeat("x", 100), StdoutTruncated: true, Stderr: strings.Repeat("x", 100), StderrTruncated: true}},
		{"one output beyond the limit", `{"shell":"` + flood + ` 100; ` + flood + ` 101 >&2"}`, execResult{
			Stdout: strings.Repeat("x", 100), Stderr: strings.Repeat("x", 100), StderrTruncated: true}},
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
}

// TestTruncatedBetweenCharacters: what is kept of an output does not end in half a character.
func TestTruncatedBetweenCharacters(t *testing.T) {
	r := newRig(t, Limits{Output: 4})
	if got := r.exec(r.create().ID, `{"cmd":"printf","args":["aüüü"]}`); got.Stdout != "aü" || !got.StdoutTruncated {
		t.Errorf("%q, truncated %v", got.Stdout, got.StdoutTruncated)
	}
}

// TestTimeoutKillsTheTree: also what the program has started. (What moves to a session of its own is for the guest's
// cgroups, which this envd has none of.)
func TestTimeoutKillsTheTree(t *testing.T) {
	r := newRig(t, Limits{})
	mark := filepath.Join(t.TempDir(), "pid")
	body := fmt.Sprintf(`{"shell":"sh -c 'echo $$ > %s; exec sleep 600' & sleep 600","timeout_seconds":1}`, mark)
	if got := r.exec(r.create().ID, body); !got.TimedOut {
		t.Fatalf("%+v", got)
	}
	text, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("the whole tree is killed", func() bool { return syscall.Kill(pid, 0) != nil })
}

// TestGuestBreaksOff: a guest that goes away has no say in what its caller is told.
func TestGuestBreaksOff(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	r.sim.Script(sb, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	e := decoded[errorAnswer](t, r.call("POST", "/v1/sandboxes/"+sb+"/exec", `{"cmd":"true"}`), http.StatusServiceUnavailable).Error
	if e.Code != models.Unavailable {
		t.Errorf("%+v", e)
	}
}

// TestProgramMayTakeLongerThanAnIdleClient: the limit of a slow body does not hold for the wait for an answer.
func TestProgramMayTakeLongerThanAnIdleClient(t *testing.T) {
	r := newRig(t, Limits{Idle: 100 * time.Millisecond})
	if got := r.exec(r.create().ID, `{"cmd":"sleep","args":["600"],"timeout_seconds":0.4}`); !got.TimedOut {
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
	pid := regexp.MustCompile(`[1-9][0-9]+`)
	for e := range r.openStream(t.Context(), sb, `{"cmd":"cat","stdin":"\u0000ü"}`) {
		if e.name == "stdout" {
			e.data = outputOf(t, e)
		}
		got = append(got, pid.ReplaceAllString(e.name+" "+e.data, "PID"))
	}
	want := []string{`started {"pid":PID}`, "stdout \x00ü", `exit {"exit_code":0,"signal":0,"timed_out":false,"oom_killed":false}`}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	n := map[string]int{}
	for e := range r.openStream(t.Context(), sb, `{"shell":"`+flood+` 3000000; `+flood+` 3000000 >&2"}`) {
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
	events := r.openStream(t.Context(), sb, `{"cmd":"sleep","args":["600"]}`)
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
	events := r.openStream(ctx, r.create().ID, `{"cmd":"sleep","args":["600"]}`)
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
	mark := "600." + strconv.Itoa(os.Getpid()) // tells the program from others of this machine
	body := `{"cmd":"sleep","args":["` + mark + `"]}`
	programs := func() int { return programs(t, mark) }
	ctx, cancel := context.WithCancel(t.Context())
	events := r.openStream(ctx, sb, body)
	<-events
	if programs() != 1 {
		t.Errorf("%d programs run", programs())
	}
	cancel()
	r.eventually("the streamed program is killed", func() bool { return programs() == 0 })

	ctx, cancel = context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.server.URL+"/v1/sandboxes/"+sb+"/exec", strings.NewReader(body))
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

// programs counts the processes of this machine that have an argument.
func programs(t *testing.T, argument string) (n int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		text, _ := os.ReadFile(line) // it may have ended meanwhile
		if slices.Contains(strings.Split(string(text), "\x00"), argument) {
			n++
		}
	}
	return n
}
