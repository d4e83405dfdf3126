package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type processAnswer struct {
	PID         int       `json:"pid"`
	State       string    `json:"state"`
	Tag         *string   `json:"tag"`
	Cmd         string    `json:"cmd"`
	Args        []string  `json:"args"`
	User        string    `json:"user"`
	PTY         bool      `json:"pty"`
	StartedAt   time.Time `json:"started_at"`
	OutputBytes int       `json:"output_bytes"`
	Exit        *exitView `json:"exit"`
}

// process starts a program and returns its URL's path.
func (r *rig) process(sb, body string) (string, processAnswer) {
	r.t.Helper()
	p := decoded[processAnswer](r.t, r.call("POST", "/v1/sandboxes/"+sb+"/processes", body), http.StatusCreated)
	return fmt.Sprintf("/v1/sandboxes/%s/processes/%d", sb, p.PID), p
}

// wait returns a process when it has ended.
func (r *rig) wait(path string) processAnswer {
	r.t.Helper()
	p := decoded[processAnswer](r.t, r.call("GET", path+"/wait", ""), http.StatusOK)
	if p.State != "exited" || p.Exit == nil {
		r.t.Fatalf("after the wait: %+v", p)
	}
	return p
}

// sseEvent is a server-sent event.
type sseEvent struct {
	id   int
	name string
	data map[string]any
}

func (e sseEvent) bytes(t testing.TB) string {
	t.Helper()
	text, _ := e.data["data"].(string)
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// events parses a whole stream.
func eventsOf(t testing.TB, body []byte) []sseEvent {
	t.Helper()
	var all []sseEvent
	for _, block := range strings.Split(string(body), "\n\n") {
		var e sseEvent
		for _, line := range strings.Split(block, "\n") {
			field, value, _ := strings.Cut(line, ": ")
			switch field {
			case "id":
				e.id, _ = strconv.Atoi(value)
			case "event":
				e.name = value
			case "data":
				if err := json.Unmarshal([]byte(value), &e.data); err != nil {
					t.Fatal(err)
				}
			}
		}
		if e.name != "" {
			all = append(all, e)
		}
	}
	return all
}

// output follows a process to its end and returns what it wrote to each stream.
func (r *rig) output(path string, headers ...string) (map[string]string, []sseEvent) {
	r.t.Helper()
	a := r.call("GET", path, "", headers...)
	if a.status != http.StatusOK {
		r.t.Fatalf("status %d: %s", a.status, a.body)
	}
	text, all := map[string]string{}, eventsOf(r.t, a.body)
	for _, e := range all {
		switch e.name {
		case "stdout", "stderr", "pty":
			text[e.name] += e.bytes(r.t)
		case "error":
			r.t.Fatalf("the stream ended with %v", e.data)
		}
	}
	return text, all
}

func TestProcessLife(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	path, p := r.process(sb, `{"shell":"read a; echo got $a; echo err >&2; exit 5","stdin":true,"tag":"mine","user":"root"}`)
	if p.State != "running" || p.Exit != nil || p.Tag == nil || *p.Tag != "mine" || p.User != "root" || p.Cmd != "/bin/sh" || p.PTY ||
		time.Since(p.StartedAt).Abs() > time.Minute {
		t.Errorf("started: %+v", p)
	}
	listed := decoded[struct{ Items []processAnswer }](t, r.call("GET", "/v1/sandboxes/"+sb+"/processes", ""), http.StatusOK).Items
	if len(listed) != 1 || listed[0].PID != p.PID {
		t.Errorf("listed: %+v", listed)
	}
	if waited := decoded[processAnswer](t, r.call("GET", path+"/wait?timeout_seconds=0.05", ""), http.StatusOK); waited.State != "running" {
		t.Errorf("a wait that is too short: %+v", waited)
	}
	if a := r.call("POST", path+"/stdin", "hello\n", "Content-Type", "application/octet-stream"); a.status != http.StatusNoContent {
		t.Errorf("stdin: %d %s", a.status, a.body)
	}
	if ended := r.wait(path); ended.Exit.ExitCode != 5 || ended.OutputBytes != len("got hello\nerr\n") {
		t.Errorf("ended: %+v %+v", ended, ended.Exit)
	}
	text, all := r.output(path + "/output")
	if text["stdout"] != "got hello\n" || text["stderr"] != "err\n" {
		t.Errorf("output: %q", text)
	}
	if first, last := all[0], all[len(all)-1]; first.name != "started" || last.name != "exit" || last.data["exit_code"] != 5.0 || last.id != 14 {
		t.Errorf("first %+v, last %+v", first, last)
	}
	if left := decoded[struct{ Items []processAnswer }](t, r.call("GET", "/v1/sandboxes/"+sb+"/processes", ""), http.StatusOK).Items; len(left) != 0 {
		t.Errorf("running: %+v", left)
	}
	if all := decoded[struct{ Items []processAnswer }](t, r.call("GET", "/v1/sandboxes/"+sb+"/processes?all=true", ""), http.StatusOK).Items; len(all) != 1 {
		t.Errorf("all: %+v", all)
	}
}

// TestProcessOutputContinues: whoever was cut off goes on where it was, by offset or as browsers do.
func TestProcessOutputContinues(t *testing.T) {
	r := newRig(t, Limits{})
	path, _ := r.process(r.create().ID, `{"shell":"printf 0123456789"}`)
	r.wait(path)
	for _, c := range []struct {
		query, last, want string
	}{
		{"", "", "0123456789"}, {"?offset=4", "", "456789"}, {"?offset=10", "", ""}, {"?offset=-1", "", ""}, {"?offset=2", "7", "789"},
	} {
		var headers []string
		if c.last != "" {
			headers = []string{"Last-Event-ID", c.last}
		}
		if text, _ := r.output(path+"/output"+c.query, headers...); text["stdout"] != c.want {
			t.Errorf("%+v: %q", c, text)
		}
	}
}

// TestProcessOutputForgets: of output that nobody has fetched in time a client learns how much it misses.
func TestProcessOutputForgets(t *testing.T) {
	const size = 8 << 20
	r := newRig(t, Limits{})
	path, _ := r.process(r.create().ID, fmt.Sprintf(`{"shell":"head -c %d /dev/zero"}`, size))
	r.wait(path)
	text, all := r.output(path + "/output")
	var gap int
	for _, e := range all {
		if e.name == "gap" {
			gap += int(e.data["bytes"].(float64))
		}
	}
	if gap == 0 || len(text["stdout"]) < 128<<10 || gap+len(text["stdout"]) != size || all[len(all)-1].id != size {
		t.Errorf("%d bytes, gap of %d, last id %d", len(text["stdout"]), gap, all[len(all)-1].id)
	}
}

// TestRunProcessWaitsForItsReader: a program that is followed from its start loses nothing, however much it writes, and how it
// ended is told.
func TestRunProcessWaitsForItsReader(t *testing.T) {
	const size = 16 << 20
	r := newRig(t, Limits{})
	sb := r.create().ID
	a := r.call("POST", "/v1/sandboxes/"+sb+"/processes", fmt.Sprintf(`{"shell":"head -c %d /dev/zero; exit 3"}`, size), "Accept", eventStream)
	all, total := eventsOf(t, a.body), 0
	for _, e := range all {
		if e.name == "stdout" {
			total += len(e.bytes(t))
		} else if e.name != "started" && e.name != "exit" {
			t.Errorf("event %s: %v", e.name, e.data)
		}
	}
	first, last := all[0], all[len(all)-1]
	if a.status != http.StatusOK || total != size || first.name != "started" || first.data["pid"] == nil || last.data["exit_code"] != 3.0 || last.id != size {
		t.Errorf("%d, %d bytes, first %+v, last %+v", a.status, total, first, last)
	}
	a = r.call("POST", "/v1/sandboxes/"+sb+"/processes", `{"cmd":"sleep","args":["600"],"timeout_seconds":0.2}`, "Accept", eventStream)
	all = eventsOf(t, a.body)
	if last := all[len(all)-1]; last.name != "exit" || last.data["timed_out"] != true || last.data["exit_code"] != 137.0 {
		t.Errorf("after its time: %+v", last)
	}
}

// TestProcessStdinStreams: input goes in while its request lasts, and its end is the program's end of file.
func TestProcessStdinStreams(t *testing.T) {
	r := newRig(t, Limits{})
	path, _ := r.process(r.create().ID, `{"cmd":"cat","stdin":true}`)
	body, feed := io.Pipe()
	req := r.request("POST", path+"/stdin?close=true", "")
	req.Body, req.ContentLength = body, -1
	answered := make(chan answer, 1)
	go func() { _, a := r.do(req); answered <- a }()
	if _, err := io.WriteString(feed, "first\n"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the first piece has arrived", func() bool {
		return decoded[processAnswer](t, r.plain("GET", path, ""), http.StatusOK).OutputBytes == len("first\n")
	})
	if _, err := io.WriteString(feed, "second\n"); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if text, _ := r.output(path + "/output"); text["stdout"] != "first\nsecond\n" {
		t.Errorf("%q", text)
	}
}

// TestProcessEndedByItsInput: who closes the input of a program that has ended by what it was given has done all that he asked; who gives it nothing is told that it has ended.
func TestProcessEndedByItsInput(t *testing.T) {
	r := newRig(t, Limits{})
	path, _ := r.process(r.create().ID, `{"shell":"read line","stdin":true}`)
	body, feed := io.Pipe()
	req := r.request("POST", path+"/stdin?close=true", "")
	req.Body, req.ContentLength = body, -1
	answered := make(chan answer, 1)
	go func() { _, a := r.do(req); answered <- a }()
	if _, err := io.WriteString(feed, "a line\n"); err != nil {
		t.Fatal(err)
	}
	r.wait(path)
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.call("POST", path+"/stdin?close=true", ""); a.status != http.StatusConflict {
		t.Errorf("nothing for a program that has ended: %d %s", a.status, a.body)
	}
}

func TestProcessOnATerminal(t *testing.T) {
	r := newRig(t, Limits{})
	path, p := r.process(r.create().ID, `{"shell":"stty size; read x; stty size; tty","pty":{"cols":81,"rows":25}}`)
	if !p.PTY {
		t.Errorf("%+v", p)
	}
	r.eventually("it has said its size", func() bool {
		return decoded[processAnswer](t, r.plain("GET", path, ""), http.StatusOK).OutputBytes > 0
	})
	if a := r.call("POST", path+"/resize", `{"cols":100,"rows":40}`); a.status != http.StatusNoContent {
		t.Errorf("resize: %d %s", a.status, a.body)
	}
	if a := r.call("POST", path+"/stdin", "\n", "Content-Type", "text/plain"); a.status != http.StatusNoContent {
		t.Errorf("stdin: %d %s", a.status, a.body)
	}
	text, _ := r.output(path + "/output")
	if !strings.Contains(text["pty"], "25 81\r\n") || !strings.Contains(text["pty"], "40 100\r\n") || !strings.Contains(text["pty"], "/dev/pts/") {
		t.Errorf("%q", text)
	}
}

func TestProcessSignals(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	for _, c := range []struct {
		signal string
		want   int
	}{{"SIGTERM", 15}, {"usr1", 10}, {"9", 9}} {
		path, _ := r.process(sb, `{"cmd":"sleep","args":["600"]}`)
		if a := r.call("POST", path+"/signal", `{"signal":"`+c.signal+`"}`); a.status != http.StatusNoContent {
			t.Errorf("%s: %d %s", c.signal, a.status, a.body)
		}
		if ended := r.wait(path); ended.Exit.Signal != c.want || ended.Exit.ExitCode != 128+c.want {
			t.Errorf("%s: %+v", c.signal, ended.Exit)
		}
	}
	path, _ := r.process(sb, `{"shell":"trap '' TERM INT HUP; while :; do sleep 1; done"}`)
	for range 2 { // the second time it has ended already
		if killed := decoded[processAnswer](t, r.call("DELETE", path, ""), http.StatusOK); killed.Exit == nil || killed.Exit.Signal != 9 {
			t.Errorf("killed: %+v", killed)
		}
	}
	path, _ = r.process(sb, `{"cmd":"sleep","args":["600"],"timeout_seconds":0.1}`)
	if ended := r.wait(path); !ended.Exit.TimedOut {
		t.Errorf("past its time: %+v", ended.Exit)
	}
}

// TestProcessOutlivesItsWatchers: clients that follow a process come and go without it noticing.
func TestProcessOutlivesItsWatchers(t *testing.T) {
	r := newRig(t, Limits{})
	path, _ := r.process(r.create().ID, `{"shell":"echo a; read x; echo b","stdin":true}`)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := http.DefaultClient.Do(r.request("GET", path+"/output", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAtLeast(resp.Body, make([]byte, 64), 64); err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = resp.Body.Close()
	}
	if a := r.call("POST", path+"/stdin", "\n", "Content-Type", "application/octet-stream"); a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if text, _ := r.output(path + "/output"); text["stdout"] != "a\nb\n" {
		t.Errorf("%q", text)
	}
}

func TestBadProcessRequests(t *testing.T) {
	r := newRig(t, Limits{})
	sb := "/v1/sandboxes/" + r.create().ID + "/processes"
	ended, _ := r.process(strings.Split(sb, "/")[3], `{"cmd":"true"}`)
	r.wait(ended)
	for _, c := range []struct {
		name, request, body string
		status              int
		code                models.Code
		says                string
	}{
		{"no program", "POST " + sb, `{}`, 400, models.Invalid, "cmd or shell"},
		{"unknown member", "POST " + sb, `{"cmd":"true","colour":1}`, 400, models.Invalid, "colour"},
		{"unknown program", "POST " + sb, `{"cmd":"no-such-program"}`, 400, models.Invalid, "no-such-program"},
		{"unknown user", "POST " + sb, `{"cmd":"true","user":"nobody-here"}`, 400, models.Invalid, "nobody-here"},
		{"our tag", "POST " + sb, `{"cmd":"true","tag":"wrenn-context:ctx-00000000"}`, 400, models.Invalid, "taken"},
		{"terminal without rows", "POST " + sb, `{"cmd":"true","pty":{"cols":80}}`, 400, models.Invalid, "rows"},
		{"terminal too large", "POST " + sb, `{"cmd":"true","pty":{"cols":80,"rows":5000}}`, 400, models.Invalid, "4096"},
		{"endless timeout", "POST " + sb, `{"cmd":"true","timeout_seconds":1e99}`, 400, models.Invalid, "timeout_seconds"},
		{"no such process", "GET " + sb + "/4000000", "", 404, models.NotFound, "process"},
		{"no pid", "GET " + sb + "/abc", "", 400, models.Invalid, "pid"},
		{"output of nothing", "GET " + sb + "/4000000/output", "", 404, models.NotFound, "process"},
		{"bad offset", "GET " + ended + "/output?offset=-2", "", 400, models.Invalid, "offset"},
		{"bad wait", "GET " + ended + "/wait?timeout_seconds=x", "", 400, models.Invalid, "timeout_seconds"},
		{"unknown signal", "POST " + ended + "/signal", `{"signal":"SIGNOPE"}`, 400, models.Invalid, "SIGNOPE"},
		{"signal to what has ended", "POST " + ended + "/signal", `{"signal":"TERM"}`, 409, models.Precondition, "ended"},
		{"resize of what has no terminal", "POST " + ended + "/resize", `{"cols":1,"rows":1}`, 409, models.Precondition, ""},
		{"input to what has ended", "POST " + ended + "/stdin", "x", 409, models.Precondition, ""},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		a := r.call(method, path, c.body)
		e := decoded[errorAnswer](t, answer{c.status, a.header, a.body}, c.status).Error
		if a.status != c.status || e.Code != c.code || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %d %s", c.name, a.status, a.body)
		}
	}
}
