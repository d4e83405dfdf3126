package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fakeGuest is what runs in the sandboxes of the fake, which share it.
type fakeGuest struct {
	modes, links map[string]string // of files
	running      map[int]*fakeProcess
	deleted      []string // contexts
}

func newFakeGuest() fakeGuest {
	return fakeGuest{modes: map[string]string{}, links: map[string]string{}, running: map[int]*fakeProcess{}}
}

// fakeProcess is a program in the fake. Its output is kept whole.
type fakeProcess struct {
	pid     int
	req     fakeRequest
	stdin   *io.PipeReader
	feed    *io.PipeWriter
	signals chan string

	mu     sync.Mutex // guards the following
	cond   *sync.Cond
	output []fakeOutput
	exit   map[string]any
}

type fakeRequest struct {
	Cmd, Shell, Cwd, User, Tag string
	Args                       []string
	Env                        map[string]string
	Stdin                      bool
	TimeoutSeconds             float64 `json:"timeout_seconds"`
}

type fakeOutput struct {
	kind string
	data any
	size int
}

func (f *fake) start(req fakeRequest) *fakeProcess {
	p := &fakeProcess{pid: 100 + len(f.running), req: req, signals: make(chan string, 8)}
	p.cond = sync.NewCond(&p.mu)
	p.stdin, p.feed = io.Pipe()
	if !req.Stdin {
		p.feed.Close()
	}
	f.running[p.pid] = p
	go p.run()
	return p
}

func (p *fakeProcess) write(kind, text string) {
	p.add(fakeOutput{kind, map[string]any{"data": []byte(text)}, len(text)})
}

func (p *fakeProcess) add(o fakeOutput) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.output = append(p.output, o)
	p.cond.Broadcast()
}

// end ends the process, once.
func (p *fakeProcess) end(code, signal int, timedOut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit == nil {
		p.exit = map[string]any{"exit_code": code, "signal": signal, "timed_out": timedOut, "oom_killed": false}
	}
	p.stdin.Close()
	p.cond.Broadcast()
}

// run is the program. drop and lost are for follow.
func (p *fakeProcess) run() {
	arg := strings.Join(p.req.Args, " ")
	switch {
	case p.req.Shell != "":
		p.write("stdout", "shell: "+p.req.Shell+"\n")
	case p.req.Cmd == "echo", p.req.Cmd == "drop", p.req.Cmd == "lost":
		p.write("stdout", arg+"\n")
	case p.req.Cmd == "cat":
		buf := make([]byte, 64<<10)
		for {
			n, err := p.stdin.Read(buf)
			p.write("stdout", string(buf[:n]))
			if err != nil {
				break
			}
		}
	case p.req.Cmd == "env":
		p.write("stdout", fmt.Sprintf("%s %s %s %v\n", p.req.Env["A"], p.req.Cwd, p.req.User, p.req.TimeoutSeconds))
	case p.req.Cmd == "fail":
		p.write("stderr", "it failed\n")
		code, _ := strconv.Atoi(arg)
		p.end(code, 0, false)
	case p.req.Cmd == "slow":
		p.end(137, 9, true)
	case p.req.Cmd == "killed":
		p.end(143, 15, false)
	case p.req.Cmd == "forgetful":
		p.write("stdout", "a")
		p.add(fakeOutput{"gap", map[string]any{"bytes": 1000}, 1000})
		p.write("stdout", "z\n")
	case p.req.Cmd == "yes":
		for p.ended() == nil {
			p.write("stdout", strings.Repeat("y\n", 1000))
			time.Sleep(time.Millisecond) // so that the memory does not fill
		}
	case p.req.Cmd == "wait": // shows the signals that it gets; TERM ends it
		p.write("stdout", "ready\n")
		for s := range p.signals {
			p.write("stdout", s+"\n")
			if strings.HasSuffix(s, "TERM") {
				p.end(143, 15, false)
				return
			}
		}
	}
	p.end(0, 0, false)
}

func (p *fakeProcess) ended() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// wait waits for the end.
func (p *fakeProcess) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.exit == nil {
		p.cond.Wait()
	}
}

func (p *fakeProcess) view() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := 0
	for _, o := range p.output {
		size += o.size
	}
	state := "running"
	if p.exit != nil {
		state = "exited"
	}
	v := map[string]any{"pid": p.pid, "state": state, "tag": nil, "cmd": p.req.Cmd, "args": append([]string{}, p.req.Args...), "cwd": nil, "user": "user",
		"pty": false, "started_at": time.Now().Add(-75 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"), "output_bytes": size, "exit": nil}
	if p.exit != nil {
		v["exit"] = p.exit
	}
	return v
}

// processes answers what is no stream.
func (f *fake) processes(w http.ResponseWriter, r *http.Request, below string, body []byte) {
	if below == "" && r.Method == http.MethodPost {
		var req fakeRequest
		if err := json.Unmarshal(body, &req); err != nil {
			refuse(w, 400, "invalid", "malformed", "")
			return
		}
		reply(w, 201, f.start(req).view())
		return
	}
	if below == "" {
		items := []any{}
		for _, pid := range slices.Sorted(maps.Keys(f.running)) {
			if p := f.running[pid]; p.ended() == nil || r.URL.Query().Get("all") == "true" {
				items = append(items, p.view())
			}
		}
		reply(w, 200, map[string]any{"items": items})
		return
	}
	pid, verb, _ := strings.Cut(strings.TrimPrefix(below, "/"), "/")
	number, _ := strconv.Atoi(pid)
	p := f.running[number]
	switch {
	case p == nil:
		refuse(w, 404, "not_found", "there is no such process in the sandbox", "")
	case r.Method == http.MethodDelete:
		p.end(137, 9, false)
		reply(w, 200, p.view())
	case verb == "signal":
		var in struct{ Signal string }
		_ = json.Unmarshal(body, &in) // the check sees what is wrong
		p.signals <- in.Signal
		if in.Signal == "TERM" { // so that a script sees what it did
			p.wait()
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// stream answers requests whose answer or body lasts, and tells whether r is one.
func (f *fake) stream(w http.ResponseWriter, r *http.Request) bool {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/sandboxes/"), "/")
	if len(parts) < 2 || r.Header.Get("X-API-Key") != fakeKey || !f.runs(parts[0]) {
		return false
	}
	sse := r.Header.Get("Accept") == "text/event-stream"
	switch last := parts[len(parts)-1]; {
	case last == "terminal":
		f.terminal(w, r)
	case parts[1] == "ports":
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("X-Forwarded-Host"))
	case parts[1] == "tcp":
		f.tcp(w, r)
	case last == "stdin":
		f.stdin(w, r, f.find(parts[2]))
	case sse && last == "output":
		offset, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		f.follow(w, r, f.find(parts[2]), offset)
	case sse && last == "processes":
		f.startAndFollow(w, r)
	case sse && last == "execute":
		f.executeStream(w, r, parts[2])
	default:
		return false
	}
	return true
}

func (f *fake) runs(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.sandboxes, func(s map[string]any) bool { return s["id"] == id && s["state"] == "running" })
}

func (f *fake) find(pid string) *fakeProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	number, _ := strconv.Atoi(pid)
	return f.running[number]
}

func (f *fake) stdin(w http.ResponseWriter, r *http.Request, p *fakeProcess) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	if p.req.Cmd != "wait" { // that reads nothing
		_, _ = io.Copy(p.feed, r.Body)
	} else if _, err := io.CopyN(io.Discard, r.Body, 1); err == nil {
		p.wait()
	}
	if p.ended() != nil {
		refuse(w, 409, "precondition", "the process has ended", "")
		return
	}
	if r.URL.Query().Get("close") == "true" {
		p.feed.Close()
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *fake) startAndFollow(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	var req fakeRequest
	if err := json.Unmarshal(body, &req); err != nil || req.Cmd == "nonsense" {
		refuse(w, 400, "invalid", "command not found: "+req.Cmd, "")
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if ok, errs := f.validator.ValidateHttpRequest(r); !ok {
		f.t.Errorf("%s is no request of the API: %v", body, errs)
	}
	f.mu.Lock()
	p := f.start(req)
	f.mu.Unlock()
	f.follow(w, r, p, 0)
}

// follow streams the output of p from offset on. That of drop breaks off after every 3 bytes.
func (f *fake) follow(w http.ResponseWriter, r *http.Request, p *fakeProcess, offset int) {
	w.Header().Set("Content-Type", "text/event-stream")
	event := func(name string, v any) {
		b, _ := json.Marshal(v) // of maps
		fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", offset, name, b)
		w.(http.Flusher).Flush()
	}
	event("started", map[string]any{"pid": p.pid, "offset": offset})
	go func() {
		<-r.Context().Done()
		p.cond.Broadcast()
	}()
	at := 0
	for i := 0; ; i++ {
		p.mu.Lock()
		for len(p.output) <= i && p.exit == nil && r.Context().Err() == nil {
			p.cond.Wait()
		}
		done, exit := len(p.output) <= i, p.exit
		var o fakeOutput
		if !done {
			o = p.output[i]
		}
		p.mu.Unlock()
		if r.Context().Err() != nil {
			return
		}
		if done {
			if p.req.Cmd == "lost" {
				event("error", map[string]any{"code": "not_found", "message": "the sandbox is gone", "request_id": "req-1"})
				return
			}
			event("exit", exit)
			return
		}
		from := max(0, min(offset-at, o.size))
		at += o.size
		data, isText := o.data.(map[string]any)["data"].([]byte)
		switch {
		case from == o.size:
		case isText && p.req.Cmd == "drop" && o.size-from > 3:
			offset += 3
			event(o.kind, map[string]any{"data": data[from : from+3]})
			panic(http.ErrAbortHandler)
		case isText:
			offset += o.size - from
			event(o.kind, map[string]any{"data": data[from:]})
		default:
			offset += o.size
			event(o.kind, o.data)
		}
	}
}
