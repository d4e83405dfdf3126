package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// execution is what the API says of code that was executed.
type execution struct {
	Status  string
	Stdout  string
	Stderr  string
	Results []struct {
		Main bool
		Data map[string]json.RawMessage
	}
	Error *struct{ Name, Value string }
}

// rest makes a request as any HTTP client does, and decodes the answer into out unless that is nil.
func (p *platform) rest(method, path string, in, out any) (int, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(p.context(), method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-API-Key", p.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && out != nil {
		if err = json.Unmarshal(text, out); err != nil {
			err = fmt.Errorf("%s: %w", text, err)
		}
	}
	return resp.StatusCode, err
}

// interpreter starts an interpreter and returns the path of its resource.
func (p *platform) interpreter(sandbox, language string) string {
	p.t.Helper()
	var made struct{ ID string }
	path := "/v1/sandboxes/" + sandbox + "/contexts"
	if status, err := p.rest("POST", path, map[string]string{"language": language}, &made); err != nil || status != http.StatusCreated {
		p.t.Fatalf("create a context for %s: %d, %v", language, status, err)
	}
	return path + "/" + made.ID
}

func (p *platform) execute(context, code string) execution {
	p.t.Helper()
	var out execution
	if status, err := p.rest("POST", context+"/execute", map[string]any{"code": code}, &out); err != nil || status != http.StatusOK {
		p.t.Fatalf("execute %q: %d, %v", code, status, err)
	}
	return out
}

// TestContexts: interpreters keep what was executed in them, tell text, errors and values apart, and survive an interrupt.
func TestContexts(t *testing.T) {
	p := start(t)
	for language, c := range map[string]struct {
		template, assign, use, plain, print, fail, errorName, loop, crash string
	}{
		"python": {"python311", "x = 20", "x + 22", "42", "print('out'); import os; os.system('echo sub; echo err >&2')", "1/0", "ZeroDivisionError",
			"while True: pass", "import os; os._exit(3)"},
		"javascript": {"node20", "const x = 20", "x + 22", "42", "console.log('out'); require('child_process').execSync('echo sub; echo err >&2', {stdio: 'inherit'}); 0",
			"null.x", "TypeError", "while (true) {}", "process.kill(process.pid, 'SIGKILL')"},
	} {
		t.Run(language, func(t *testing.T) {
			id := p.create(c.template).ID
			context := p.interpreter(id, language)
			if got := p.execute(context, c.assign); got.Status != "ok" {
				t.Errorf("%s: %+v", c.assign, got)
			}
			got := p.execute(context, c.use)
			if got.Status != "ok" || len(got.Results) != 1 || !got.Results[0].Main || string(got.Results[0].Data["text/plain"]) != `"`+c.plain+`"` {
				t.Errorf("%s: %+v", c.use, got)
			}
			if got := p.execute(context, c.print); !strings.HasPrefix(got.Stdout, "out\nsub\n") || got.Stderr != "err\n" {
				t.Errorf("%s: %+v", c.print, got)
			}
			if got := p.execute(context, c.fail); got.Status != "error" || got.Error == nil || got.Error.Name != c.errorName {
				t.Errorf("%s: %+v", c.fail, got)
			}
			p.interrupted(t, context, c.loop)
			if got := p.execute(context, c.use); got.Status != "ok" || len(got.Results) != 1 {
				t.Errorf("after the interrupts: %+v", got)
			}
			var failure struct{ Error struct{ Code, Message string } }
			status, err := p.rest("POST", context+"/execute", map[string]any{"code": c.crash}, &failure)
			if err != nil || status != http.StatusConflict || !strings.Contains(failure.Error.Message, "crashed") {
				t.Errorf("a crash: %d %+v, %v", status, failure, err)
			}
			if status, _ := p.rest("POST", context+"/execute", map[string]any{"code": "1"}, nil); status != http.StatusNotFound {
				t.Errorf("a context that has crashed: %d", status)
			}
			p.destroy(id)
		})
	}
	id := p.create("minimal").ID
	var failure struct{ Error struct{ Code, Message string } }
	status, err := p.rest("POST", "/v1/sandboxes/"+id+"/contexts", map[string]string{"language": "python"}, &failure)
	if err != nil || status != http.StatusConflict || failure.Error.Code != "precondition" {
		t.Errorf("python where there is none: %d %+v, %v", status, failure, err)
	}
	p.destroy(id)
}

// interrupted executes code that never ends: ended by its timeout, by request, and by its caller going away.
func (p *platform) interrupted(t *testing.T, context, loop string) {
	t.Helper()
	var out execution
	if status, err := p.rest("POST", context+"/execute", map[string]any{"code": loop, "timeout_seconds": 1}, &out); err != nil || out.Status != "timed_out" {
		t.Errorf("past its time: %d %+v, %v", status, out, err)
	}
	ended := make(chan execution, 1)
	go func() {
		var out execution
		_, _ = p.rest("POST", context+"/execute", map[string]any{"code": loop}, &out) // what it was is in out
		ended <- out
	}()
	for interrupted := false; !interrupted; {
		if status, err := p.rest("POST", context+"/interrupt", map[string]any{}, nil); err != nil && status != http.StatusNoContent {
			t.Errorf("interrupt: %d, %v", status, err)
		}
		select {
		case out := <-ended:
			if interrupted = true; out.Status != "interrupted" {
				t.Errorf("interrupted: %+v", out)
			}
		case <-time.After(200 * time.Millisecond): // it may not have begun before
		}
	}
}

// TestProcessesInVM: what only a guest with cgroups can show.
func TestProcessesInVM(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	var made struct{ PID int }
	path := "/v1/sandboxes/" + id + "/processes"
	status, err := p.rest("POST", path, map[string]any{"shell": "setsid sleep 1000 & trap '' TERM; echo ready; sleep 1000", "tag": "tree"}, &made)
	if err != nil || status != http.StatusCreated {
		t.Fatalf("%d, %v", status, err)
	}
	var killed struct {
		State string
		Exit  struct{ Signal int }
	}
	if status, err := p.rest("DELETE", fmt.Sprint(path, "/", made.PID), nil, &killed); err != nil || status != http.StatusOK || killed.Exit.Signal != 9 {
		t.Errorf("kill: %d %+v, %v", status, killed, err)
	}
	if out := p.shell(id, "ps -eo args | grep -c '^sleep 100[0]' || true"); strings.TrimSpace(out) != "0" {
		t.Errorf("%s sleeps of the killed tree are left", strings.TrimSpace(out))
	}
	r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: "cat /proc/self/cgroup; cat /proc/self/oom_score_adj; nice"})
	if err != nil || !strings.Contains(r.Stdout, "\n0\n0\n") || strings.HasPrefix(r.Stdout, "0::/\n") {
		t.Errorf("cgroup, score and priority: %q, %v", r.Stdout, err)
	}
	p.destroy(id)
}
