package kernels_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// patience is how long any one event is waited for: far more than a working kernel needs on a busy machine.
const patience = time.Minute

// event is any event of docs/design/context-protocol.md.
type event struct {
	ID, Type       string
	Protocol       int
	Language       string
	Version        string
	Text           string
	Main           bool
	Data           map[string]json.RawMessage
	Omitted        map[string]int
	Name, Value    string
	Traceback      []string
	Status         string
	ExecutionCount int `json:"execution_count"`
}

// kernel is a running kernel program, in a process group of its own as envd starts it.
type kernel struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events chan event
	begun  int // how many requests have
}

// outcome is what a request came to.
type outcome struct {
	stdout, stderr string
	results        []event
	failures       []event
	end            event
	all            []event
}

func start(t *testing.T, language string, env ...string) *kernel {
	t.Helper()
	if program := map[string]string{"python": "python3", "javascript": "node"}[language]; !onPath(program) {
		testlane.Missing(t, "needs "+program+" on the PATH")
	}
	script, err := filepath.Abs("kernel-" + language)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), append([]string{"PYTHONDONTWRITEBYTECODE=1", "HOME=" + cmd.Dir}, env...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, cmd: cmd, stdin: stdin, events: make(chan event, 1000)}
	go k.read(stdout)
	t.Cleanup(k.kill)
	if e := k.next(); e.Type != "ready" || e.Protocol != 2 || e.Language != language || e.Version == "" {
		t.Fatalf("first event: %+v", e)
	}
	return k
}

func onPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// read hands on events until the stream ends. A line that is none is one of type "garbage".
func (k *kernel) read(stdout io.Reader) {
	defer close(k.events)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if len(line) > 0 {
				k.events <- event{Type: "garbage", Text: string(line)}
			}
			return
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			e = event{Type: "garbage", Text: string(line)}
		}
		k.events <- e
	}
}

func (k *kernel) kill() {
	_ = syscall.Kill(-k.cmd.Process.Pid, syscall.SIGKILL)
	for range k.events {
	}
	_ = k.cmd.Wait()
	if k.t.Failed() {
		k.t.Logf("the kernel ended with %v", k.cmd.ProcessState)
	}
}

// next returns the next event; those that say that a request begins are only counted.
func (k *kernel) next() event {
	k.t.Helper()
	for {
		select {
		case e, ok := <-k.events:
			if !ok {
				k.t.Fatal("the kernel has ended")
			}
			if e.Type != "begin" {
				return e
			}
			k.begun++
		case <-time.After(patience):
			k.t.Fatal("the kernel says nothing")
			return event{}
		}
	}
}

func (k *kernel) write(line string) {
	k.t.Helper()
	if _, err := io.WriteString(k.stdin, line+"\n"); err != nil {
		k.t.Fatalf("write a request: %v", err)
	}
}

func (k *kernel) request(id, code string, env map[string]string) {
	k.t.Helper()
	line, err := json.Marshal(map[string]any{"id": id, "op": "execute", "code": code, "env": env})
	if err != nil {
		k.t.Fatal(err)
	}
	k.write(string(line))
}

// finish reads events up to the end of the request.
func (k *kernel) finish(id string) outcome {
	k.t.Helper()
	var o outcome
	for {
		e := k.next()
		o.all = append(o.all, e)
		if e.ID != id {
			k.t.Fatalf("event of %q while %q runs: %+v", e.ID, id, e)
		}
		switch e.Type {
		case "stdout":
			o.stdout += e.Text
		case "stderr":
			o.stderr += e.Text
		case "result":
			o.results = append(o.results, e)
		case "error":
			o.failures = append(o.failures, e)
		case "end":
			o.end = e
			return o
		default:
			k.t.Fatalf("unexpected event %+v", e)
		}
	}
}

func (k *kernel) run(code string) outcome {
	k.t.Helper()
	k.request("r", code, nil)
	return k.finish("r")
}

// interrupt interrupts the request with that id.
func (k *kernel) interrupt(id string) { k.write(`{"op":"interrupt","id":"` + id + `"}`) }

// value returns a representation of a result; a string without its quotes.
func (e event) value(mime string) string {
	var text string
	if json.Unmarshal(e.Data[mime], &text) == nil {
		return text
	}
	return string(e.Data[mime])
}

func (o outcome) main() string {
	for _, e := range o.results {
		if e.Main {
			return e.value("text/plain")
		}
	}
	return ""
}

func (o outcome) failure() string {
	var all []string
	for _, e := range o.failures {
		all = append(all, e.Name+": "+e.Value)
	}
	return strings.Join(all, "; ")
}

// cell is a request and what has to come of it.
type cell struct {
	code    string
	stdout  string // exactly
	stderr  string // a part; "" for nothing at all
	result  string // text/plain of the last value
	failure string // the start of "name: value"; with it the status is "error"
}

func (k *kernel) check(c cell) {
	k.t.Helper()
	before := k.begun
	o := k.run(c.code)
	status := "ok"
	if c.failure != "" {
		status = "error"
	}
	if o.stdout != c.stdout {
		k.t.Errorf("%s\nstdout %q, want %q", c.code, o.stdout, c.stdout)
	}
	if (c.stderr == "") != (o.stderr == "") || !strings.Contains(o.stderr, c.stderr) {
		k.t.Errorf("%s\nstderr %q, want %q", c.code, o.stderr, c.stderr)
	}
	if o.main() != c.result {
		k.t.Errorf("%s\nresult %q, want %q", c.code, o.main(), c.result)
	}
	if !strings.HasPrefix(o.failure(), c.failure) || (c.failure == "") != (o.failure() == "") {
		k.t.Errorf("%s\nfailure %q, want %q", c.code, o.failure(), c.failure)
	}
	if o.end.Status != status || k.begun != before+1 {
		k.t.Errorf("%s\nstatus %q, want %q; begun %d times", c.code, o.end.Status, status, k.begun-before)
	}
}

// checkAll runs each case in a kernel of its own.
func checkAll(t *testing.T, language string, cases map[string][]cell) {
	for name, cells := range cases {
		t.Run(name, func(t *testing.T) {
			k := start(t, language)
			for _, c := range cells {
				k.check(c)
			}
		})
	}
}

// both runs a test for each language.
func both(t *testing.T, test func(t *testing.T, language string)) {
	for _, language := range []string{"python", "javascript"} {
		t.Run(language, func(t *testing.T) { test(t, language) })
	}
}

// pick is the code of a language.
func pick(language, python, javascript string) string {
	if language == "python" {
		return python
	}
	return javascript
}
