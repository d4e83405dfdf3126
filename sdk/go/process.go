package wrenn

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ProcessRequest says what to start: either Cmd with Args, or Shell. All texts must be UTF-8.
type ProcessRequest struct {
	Cmd   string // a program, by absolute path or looked up in the guest's PATH
	Args  []string
	Shell string // a command line for /bin/sh -c
	Cwd   string // "" means the user's home directory
	Env   map[string]string
	User  string // "" means the template's default user
	// Stdin is whether there will be input (see WriteStdin); otherwise the program reads end of file at once.
	Stdin bool
	// PTY runs the program on a terminal of this size, which always has input. Its output is of the kind PTYOutput.
	PTY *TerminalSize
	Tag string // a name of the caller's choice, at most 128 characters; those that begin with "wrenn-" are taken
	// Timeout is when the program and all that it started are killed: at most 30 days; 0 means never.
	Timeout time.Duration
}

// TerminalSize is that of a terminal: 1 to 4096 columns and rows.
type TerminalSize struct {
	Cols int `json:"cols"`
	Rows int `json:"rows"`
}

// Process is a program that was started through the API.
type Process struct {
	PID         int       `json:"pid"`
	State       string    `json:"state"` // "running" or "exited"
	Tag         string    `json:"tag,omitempty"`
	Cmd         string    `json:"cmd"`
	Args        []string  `json:"args"`
	Cwd         string    `json:"cwd,omitempty"`
	User        string    `json:"user"`
	PTY         bool      `json:"pty"`
	StartedAt   time.Time `json:"started_at"`
	OutputBytes int64     `json:"output_bytes"`   // how much output there has been
	Exit        *ExecExit `json:"exit,omitempty"` // nil while it runs
}

// body is the service's form of r.
func (r ProcessRequest) body() ([]byte, error) {
	if err := encodable("the texts of a process", r.texts()); err != nil {
		return nil, err
	}
	return encode(struct {
		Cmd     string            `json:"cmd,omitempty"`
		Args    []string          `json:"args,omitempty"`
		Shell   string            `json:"shell,omitempty"`
		Cwd     string            `json:"cwd,omitempty"`
		Env     map[string]string `json:"env,omitempty"`
		User    string            `json:"user,omitempty"`
		Stdin   bool              `json:"stdin,omitempty"`
		PTY     *TerminalSize     `json:"pty,omitempty"`
		Tag     string            `json:"tag,omitempty"`
		Timeout float64           `json:"timeout_seconds,omitempty"`
	}{r.Cmd, r.Args, r.Shell, r.Cwd, r.Env, r.User, r.Stdin, r.PTY, r.Tag, r.Timeout.Seconds()})
}

func (r ProcessRequest) texts() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, s := range append([]string{r.Cmd, r.Shell, r.Cwd, r.User, r.Tag}, r.Args...) {
			if !yield(s) {
				return
			}
		}
		entries(r.Env, yield)
	}
}

// StartProcess starts a program and leaves it running: until it ends, is killed, its time runs out or the sandbox ends.
// The last part of its output (256 KiB, as long as the sandbox has the memory) is kept for ProcessOutput. Repeated,
// it is started at most once.
func (c *Client) StartProcess(ctx context.Context, id string, req ProcessRequest) (*Process, error) {
	path, err := sandboxPath(id, "processes")
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx, c.opts.Timeout)
	defer cancel()
	call := request{method: http.MethodPost, path: path}
	if call.body, err = req.body(); err != nil {
		return nil, err
	}
	var p Process
	if err := c.exchange(ctx, call, &p); err != nil {
		return nil, err
	}
	return &p, nil
}

// Processes returns the programs that were started through the API and run, by pid; with all, those too that ended a
// short while ago (5 minutes, the newest 64).
func (c *Client) Processes(ctx context.Context, id string, all bool) ([]Process, error) {
	path, err := sandboxPath(id, "processes")
	if err != nil {
		return nil, err
	}
	if all {
		path += "?all=true"
	}
	var list struct{ Items []Process }
	err = c.call(ctx, http.MethodGet, path, nil, &list)
	return list.Items, err
}

// GetProcess returns a program; one that has ended for 5 minutes (the newest 64).
func (c *Client) GetProcess(ctx context.Context, id string, pid int) (*Process, error) {
	return c.oneProcess(ctx, http.MethodGet, id, pid, "")
}

// KillProcess kills a program and all that it started, and returns it when it has ended. It can be repeated.
func (c *Client) KillProcess(ctx context.Context, id string, pid int) (*Process, error) {
	return c.oneProcess(ctx, http.MethodDelete, id, pid, "")
}

// waitPiece is how long one request waits for the end of a program, well within what proxies bear.
const waitPiece = 50 * time.Second

// WaitProcess waits for the end of a program, for as long as ctx lasts.
func (c *Client) WaitProcess(ctx context.Context, id string, pid int) (*Process, error) {
	query := "/wait?timeout_seconds=" + strconv.Itoa(int(waitPiece.Seconds()))
	for {
		p, err := c.oneProcess(ctx, http.MethodGet, id, pid, query)
		if err != nil || p.Exit != nil {
			return p, err
		}
	}
}

func (c *Client) oneProcess(ctx context.Context, method, id string, pid int, below string) (*Process, error) {
	path, err := processPath(id, pid)
	if err != nil {
		return nil, err
	}
	var p Process
	if err := c.call(ctx, method, path+below, nil, &p); err != nil {
		return nil, err
	}
	return &p, nil
}

// SignalProcess sends a signal, by name such as "SIGTERM" or by number, to a program's process group; SIGKILL reaches
// all that it started. A program that has ended is a Precondition error.
func (c *Client) SignalProcess(ctx context.Context, id string, pid int, signal string) error {
	return c.tellProcess(ctx, id, pid, "signal", map[string]string{"signal": signal})
}

// ResizeProcess tells a program the new size of its terminal.
func (c *Client) ResizeProcess(ctx context.Context, id string, pid int, size TerminalSize) error {
	return c.tellProcess(ctx, id, pid, "resize", size)
}

func (c *Client) tellProcess(ctx context.Context, id string, pid int, what string, body any) error {
	path, err := processPath(id, pid)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path+"/"+what, body, nil)
}

// WriteStdin feeds a program's standard input, or terminal, with what r gives, as it comes: for as long as r
// lasts. It returns when the program's pipe has taken all of it; where the program reads slowly, it waits. With
// end the input ends then. A program that has ended, or has closed its input, is a Precondition error. It is never
// repeated: after another error it is not known how much has arrived. When r is an io.Closer it is closed.
func (c *Client) WriteStdin(ctx context.Context, id string, pid int, r io.Reader, end bool) error {
	path, err := processPath(id, pid)
	if err != nil {
		return err
	}
	query := url.Values{}
	if end {
		query.Set("close", "true")
	}
	return c.exchange(ctx, request{method: http.MethodPost, path: withQuery(path+"/stdin", query), stream: r}, nil)
}

func processPath(id string, pid int) (string, error) {
	if pid < 1 {
		return "", invalid("%d is no process id", pid)
	}
	return sandboxPath(id, "processes", strconv.Itoa(pid))
}

func withQuery(path string, query url.Values) string {
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}
