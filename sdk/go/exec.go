package wrenn

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"time"
	"unicode/utf8"
)

// defaultExecTimeout is what the service takes when a request names no timeout.
const defaultExecTimeout = 300 * time.Second

// ExecRequest says what to run: either Cmd with Args, or Shell. All texts must be UTF-8.
type ExecRequest struct {
	Cmd   string // a program, by absolute path or looked up in the guest's PATH
	Args  []string
	Shell string // a command line for /bin/sh -c
	Cwd   string // "" means the user's home directory
	Env   map[string]string
	User  string // "" means the template's default user
	// Stdin is what the program reads; for more than some 500 KiB, or for bytes that are no UTF-8,
	// write a file and redirect it. "" means end of file at once.
	Stdin string
	// Timeout is when the program and all that it started are killed: at most 24 hours; 0 means 5 minutes.
	Timeout time.Duration
}

// ExecExit is how a program ended.
type ExecExit struct {
	ExitCode int  `json:"exit_code"` // 128 + Signal when a signal ended it
	Signal   int  `json:"signal"`    // 0 for none
	TimedOut bool `json:"timed_out"` // it was killed because its time ran out
	// OOMKilled says that the kernel killed it, or something that it started, for want of memory.
	OOMKilled bool `json:"oom_killed"`
}

// ExecResult is how a program ended and what it wrote, byte for byte.
type ExecResult struct {
	ExecExit
	Stdout          string // at most the first 1 MiB
	Stderr          string // at most the first 1 MiB
	StdoutTruncated bool
	StderrTruncated bool
	Duration        time.Duration
}

// Exec runs a program to its end. An exit status other than 0 is no error. When ctx ends, the
// program and all that it started are killed. Repeated, it is run at most once.
func (c *Client) Exec(ctx context.Context, id string, req ExecRequest) (*ExecResult, error) {
	call, err := req.call(id)
	if err != nil {
		return nil, err
	}
	limit := req.Timeout
	if limit == 0 {
		limit = defaultExecTimeout
	}
	ctx, cancel := c.bounded(ctx, limit+c.opts.Timeout)
	defer cancel()
	var answer execAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	return answer.result()
}

// execAnswer is the service's form of a result.
type execAnswer struct {
	ExecExit
	Stdout          string  `json:"stdout"`
	Stderr          string  `json:"stderr"`
	StdoutTruncated bool    `json:"stdout_truncated"`
	StderrTruncated bool    `json:"stderr_truncated"`
	Encoding        string  `json:"encoding"`
	DurationMS      float64 `json:"duration_ms"`
}

func (a execAnswer) result() (*ExecResult, error) {
	r := &ExecResult{
		ExecExit: a.ExecExit, Stdout: a.Stdout, Stderr: a.Stderr,
		StdoutTruncated: a.StdoutTruncated, StderrTruncated: a.StderrTruncated,
		Duration: time.Duration(a.DurationMS * float64(time.Millisecond)),
	}
	if a.Encoding != "base64" {
		return r, nil
	}
	for _, s := range []*string{&r.Stdout, &r.Stderr} {
		b, err := base64.StdEncoding.DecodeString(*s)
		if err != nil {
			return nil, fmt.Errorf("decode output: %w", err)
		}
		*s = string(b)
	}
	return r, nil
}

// call makes the request that runs r in sandbox id.
func (r ExecRequest) call(id string) (request, error) {
	path, err := sandboxPath(id, "exec")
	if err != nil {
		return request{}, err
	}
	if err := encodable("the texts of an exec request", r.texts()); err != nil {
		return request{}, err
	}
	body, err := json.Marshal(struct {
		Cmd      string            `json:"cmd,omitempty"`
		Args     []string          `json:"args,omitempty"`
		Shell    string            `json:"shell,omitempty"`
		Cwd      string            `json:"cwd,omitempty"`
		Env      map[string]string `json:"env,omitempty"`
		User     string            `json:"user,omitempty"`
		Stdin    string            `json:"stdin,omitempty"`
		Timeout  float64           `json:"timeout_seconds,omitempty"`
		Encoding string            `json:"encoding"`
	}{r.Cmd, r.Args, r.Shell, r.Cwd, r.Env, r.User, r.Stdin, r.Timeout.Seconds(), "base64"})
	if err != nil {
		return request{}, invalid("encode request: %v", err)
	}
	return request{method: http.MethodPost, path: path, body: body}, nil
}

func (r ExecRequest) texts() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, s := range append([]string{r.Cmd, r.Shell, r.Cwd, r.User, r.Stdin}, r.Args...) {
			if !yield(s) {
				return
			}
		}
		entries(r.Env, yield)
	}
}

// encodable refuses texts that JSON would change without a word.
func encodable(what string, texts iter.Seq[string]) error {
	for s := range texts {
		if !utf8.ValidString(s) {
			return invalid("%s must be UTF-8; other bytes can be sent as a file", what)
		}
	}
	return nil
}

// entries yields the keys and values of m, and says whether to go on.
func entries(m map[string]string, yield func(string) bool) bool {
	for k, v := range m {
		if !yield(k) || !yield(v) {
			return false
		}
	}
	return true
}
