package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type lifecycleAnswer struct {
	ID        string `json:"id"`
	Lifecycle struct {
		AutoPause     int                  `json:"auto_pause_after_seconds"`
		AutoHibernate int                  `json:"auto_hibernate_after_seconds"`
		AutoDestroy   int                  `json:"auto_destroy_after_seconds"`
		Timeout       int                  `json:"timeout_seconds"`
		OnTimeout     models.TimeoutAction `json:"on_timeout"`
		TimeoutAt     *time.Time           `json:"timeout_at"`
		Upcoming      []struct {
			Action, Because string
			At              time.Time
		} `json:"upcoming"`
	} `json:"lifecycle"`
}

// TestLifecycleOverREST: it is set at create and changed later, and the sandbox says what comes next.
func TestLifecycleOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	plain := decoded[lifecycleAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal"}`), http.StatusCreated)
	if l := plain.Lifecycle; l.AutoPause+l.AutoHibernate+l.AutoDestroy+l.Timeout != 0 || l.OnTimeout != models.DestroyOnTimeout || l.TimeoutAt != nil || len(l.Upcoming) != 0 {
		t.Errorf("by default nothing becomes of it, not %+v", l)
	}
	made := decoded[lifecycleAnswer](t, r.call("POST", "/v1/sandboxes",
		`{"template":"minimal","lifecycle":{"auto_pause_after_seconds":600,"auto_destroy_after_seconds":86400,"timeout_seconds":3600}}`), http.StatusCreated)
	if l := made.Lifecycle; len(l.Upcoming) != 2 || l.Upcoming[0].Action != "pause" || l.Upcoming[0].Because != "auto_pause" ||
		l.Upcoming[1].Action != "destroy" || !l.Upcoming[1].At.Equal(*l.TimeoutAt) {
		t.Errorf("%+v", l)
	}
	path := "/v1/sandboxes/" + made.ID
	more := decoded[lifecycleAnswer](t, r.call("PATCH", path, `{"lifecycle":{"timeout_seconds":7200,"on_timeout":"pause"},"network":{"internet":"off"}}`), http.StatusOK)
	want := made
	want.Lifecycle.Timeout, want.Lifecycle.OnTimeout = 7200, models.PauseOnTimeout
	if diff := cmp.Diff(want, more, cmpopts.IgnoreFields(lifecycleAnswer{}, "Lifecycle.TimeoutAt", "Lifecycle.Upcoming")); diff != "" {
		t.Error(diff)
	}
	if l := more.Lifecycle; l.TimeoutAt.Sub(*made.Lifecycle.TimeoutAt) < time.Hour || l.Upcoming[1].Action != "pause" || l.Upcoming[1].Because != "timeout" {
		t.Errorf("%+v", l)
	}
	r.call("POST", path+"/pause", "")
	if l := decoded[lifecycleAnswer](t, r.call("GET", path, ""), http.StatusOK).Lifecycle; len(l.Upcoming) != 1 || l.Upcoming[0].Because != "auto_destroy" {
		t.Errorf("asleep: %+v", l)
	}
	off := decoded[lifecycleAnswer](t, r.call("PATCH", path, `{"lifecycle":{"auto_destroy_after_seconds":0,"timeout_seconds":0}}`), http.StatusOK)
	if l := off.Lifecycle; l.TimeoutAt != nil || len(l.Upcoming) != 0 {
		t.Errorf("without an end: %+v", l)
	}
	r.call("DELETE", path, "")
	if a := r.call("PATCH", path, `{"lifecycle":{"timeout_seconds":60}}`); a.status != http.StatusConflict {
		t.Errorf("of one that is gone: %d %s", a.status, a.body)
	}
}

func TestBadLifecycles(t *testing.T) {
	r := newRig(t, Limits{})
	path := "/v1/sandboxes/" + r.create().ID
	for lifecycle, says := range map[string]string{
		`{}`:                                   "changes nothing",
		`5`:                                    "object",
		`{"auto_pause":1}`:                     "auto_pause_after_seconds", // in the hint
		`{"auto_pause_after_seconds":1}`:       "between 5 and",
		`{"auto_pause_after_seconds":-1}`:      "lifecycle.auto_pause_after_seconds",
		`{"auto_pause_after_seconds":"10m"}`:   "integer",
		`{"auto_hibernate_after_seconds":1.5}`: "integer",
		`{"auto_destroy_after_seconds":99999999999999}`: "lifecycle.auto_destroy_after_seconds",
		`{"timeout_seconds":31622401}`:                  "lifecycle.timeout_seconds",
		`{"timeout_seconds":null}`:                      "null",
		`{"on_timeout":"hibernate"}`:                    "lifecycle.on_timeout",
	} {
		for _, request := range []string{"PATCH " + path, "POST /v1/sandboxes"} {
			method, path, _ := strings.Cut(request, " ")
			body := fmt.Sprintf(`{"lifecycle":%s}`, lifecycle)
			if method == "POST" {
				body = fmt.Sprintf(`{"template":"minimal","lifecycle":%s}`, lifecycle)
			}
			a := r.call(method, path, body)
			if e := decoded[errorAnswer](t, a, http.StatusBadRequest).Error; e.Code != models.Invalid || !strings.Contains(string(a.body), says) {
				t.Errorf("%s %s: %s", method, body, a.body)
			}
		}
	}
	if n := len(r.list("").Items); n != 1 {
		t.Errorf("%d sandboxes were made", n)
	}
	other := string(r.newKey("other"))
	if a := r.call("PATCH", path, `{"lifecycle":{"timeout_seconds":60}}`, "X-API-Key", other); a.status != http.StatusNotFound {
		t.Errorf("another account changes it: %d", a.status)
	}
}

// TestConnectionsAndUse: whatever is held open keeps a sandbox awake when something passes through it, in each direction, and not by being there.
func TestConnectionsAndUse(t *testing.T) {
	r := newRig(t, Limits{KeepOpen: 5 * time.Millisecond})
	busy := r.living()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.openStream(ctx, busy, `{"shell":"sleep 600"}`)
	dir := t.TempDir()
	sign := filepath.Join(dir, "sign")
	for name, open := range map[string]func(sb string) (act func()){
		"tcp from the client": func(sb string) func() {
			port, _ := speaker(t)
			c := r.dialTCP(sb, port)
			return func() { c.send(websocket.MessageBinary, "line\n") }
		},
		"tcp from the server": func(sb string) func() {
			port, speak := speaker(t)
			c := r.dialTCP(sb, port)
			c.send(websocket.MessageBinary, "line\n")
			return speak
		},
		"a port": func(sb string) func() {
			port, speak := speaker(t)
			r.read(fmt.Sprintf("/v1/sandboxes/%s/ports/%d/", sb, port))
			return speak
		},
		"a terminal's input": func(sb string) func() {
			c := r.openTerminal(sb, url.Values{"cmd": {"stty -echo; echo ready; sleep 600"}})
			c.until("ready\r\n")
			return func() { c.send(websocket.MessageBinary, "x") }
		},
		"output that is followed": func(sb string) func() {
			at, _ := r.process(sb, fmt.Sprintf(`{"shell":"until [ -e %s-o ]; do sleep 0.02; done; echo more; sleep 600"}`, sign))
			r.read(at + "/output")
			return func() { touchFile(t, sign+"-o") }
		},
		"a terminal's output": func(sb string) func() {
			r.openTerminal(sb, url.Values{"cmd": {fmt.Sprintf("until [ -e %s-t ]; do sleep 0.02; done; echo more; sleep 600", sign)}})
			return func() { touchFile(t, sign+"-t") }
		},
		"a folder that is watched": func(sb string) func() {
			folder := t.TempDir()
			r.read("/v1/sandboxes/" + sb + "/watch?path=" + folder)
			return func() { touchFile(t, filepath.Join(folder, "file")) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			sb := r.living()
			act := open(sb)
			before := r.quiet(sb, busy)
			act()
			r.eventually("it counts as used again", func() bool { return r.usedUntil(sb).After(before) })
		})
	}
}

// speaker is a server whose client speaks first; it answers a request over HTTP at once, and says more when it is told to.
func speaker(t *testing.T) (port int, speak func()) {
	t.Helper()
	say := make(chan struct{})
	t.Cleanup(func() { close(say) })
	port = tcpServer(t, func(conn *net.TCPConn) {
		request := bufio.NewReader(conn)
		if line, _ := request.ReadString('\n'); strings.HasPrefix(line, "GET") {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: here\n\n")
		}
		for range say {
			_, _ = io.WriteString(conn, "data: more\n\n")
		}
	})
	return port, func() { say <- struct{}{} }
}

func touchFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// living is a sandbox that is put to sleep for want of use.
func (r *rig) living() string {
	r.t.Helper()
	return decoded[lifecycleAnswer](r.t, r.call("POST", "/v1/sandboxes", `{"template":"minimal","lifecycle":{"auto_pause_after_seconds":3600}}`), http.StatusCreated).ID
}

// read opens a stream and reads it until the test ends.
func (r *rig) read(path string) {
	r.t.Helper()
	resp, err := http.DefaultClient.Do(r.request("GET", path, ""))
	if err != nil || resp.StatusCode != http.StatusOK {
		r.t.Fatalf("GET %s: %v %v", path, resp, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, resp.Body) // ends with Close
	}()
	r.t.Cleanup(func() {
		_ = resp.Body.Close()
		<-ended
	})
}

func (r *rig) usedUntil(sb string) time.Time {
	r.t.Helper()
	row, err := r.store.SandboxOfAny(r.t.Context(), id.Sandbox(sb))
	if err != nil {
		r.t.Fatal(err)
	}
	return row.UsedUntil
}

// quiet waits until a sandbox has not been used while a busy one was several times, and returns until when it counts as used.
func (r *rig) quiet(sb, busy string) time.Time {
	r.t.Helper()
	var last time.Time
	r.eventually("nobody uses it", func() bool {
		last = r.usedUntil(sb)
		for range 3 {
			marker := r.usedUntil(busy)
			r.eventually("the other one is used", func() bool { return r.usedUntil(busy).After(marker) })
		}
		return r.usedUntil(sb).Equal(last)
	})
	return last
}
