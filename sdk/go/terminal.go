package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

const (
	// maxTerminalMessage is the longest message that is accepted, in bytes.
	maxTerminalMessage = 4 << 20
	// terminalPing is how often a quiet terminal's connection is tried, and how long the answer may take.
	terminalPing = 20 * time.Second
)

// TerminalRequest says what to open: a new terminal, or with ID one that there is.
type TerminalRequest struct {
	Size    TerminalSize      // the zero value means 80 columns and 24 rows
	Cmd     string            // a command line for /bin/sh; "" means the user's login shell
	Cwd     string            // "" means the user's home directory
	User    string            // "" means the template's default user
	Env     map[string]string // beside what every terminal has, such as TERM
	Timeout time.Duration     // when all is killed: at most 30 days; 0 means 24 hours

	ID     string // of a terminal to attach to again; Cmd, Cwd, User, Env and Timeout are then as they were
	Offset int64  // where in the output of that to begin; 0 is all that is kept, FromNow what comes next
}

// Terminal is a connection to a program on a terminal. Read is for one goroutine; the other methods may be called by others.
type Terminal struct {
	ID     string // by which it can be attached to again
	PID    int    // of the program, in the guest
	conn   *websocket.Conn
	offset int64
	stop   context.CancelFunc // of the pinging
}

// OpenTerminal opens a terminal and returns when the program runs. The caller must call Close, which leaves the
// program running: it ends by itself, by KillProcess, or by its timeout. It is never repeated.
func (c *Client) OpenTerminal(ctx context.Context, id string, req TerminalRequest) (*Terminal, error) {
	path, err := sandboxPath(id, "terminal")
	if err != nil {
		return nil, err
	}
	conn, resp, err := websocket.Dial(ctx, c.base+withQuery(path, req.query()), &websocket.DialOptions{
		HTTPClient: c.http,
		HTTPHeader: http.Header{"X-API-Key": {c.opts.APIKey}, "User-Agent": {c.opts.UserAgent}},
	})
	if err != nil {
		return nil, c.dialError(resp, err)
	}
	conn.SetReadLimit(maxTerminalMessage)
	t := &Terminal{conn: conn}
	if err := t.start(ctx, req); err != nil {
		_ = conn.CloseNow() // err says more
		return nil, err
	}
	alive, stop := context.WithCancel(context.Background())
	t.stop = stop
	go t.keepOpen(alive)
	return t, nil
}

func (r TerminalRequest) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			q.Set(name, value)
		}
	}
	set("cols", strconv.Itoa(r.Size.Cols))
	set("rows", strconv.Itoa(r.Size.Rows))
	if r.ID == "" {
		set("start", "message") // URLs end up in logs
	}
	set("timeout_seconds", strconv.Itoa(int(r.Timeout.Round(time.Second).Seconds())))
	set("id", r.ID)
	set("offset", strconv.FormatInt(r.Offset, 10))
	return q
}

// dialError explains why there is no WebSocket: by the service's own answer, if there is one.
func (c *Client) dialError(resp *http.Response, err error) error {
	if resp != nil && resp.StatusCode >= 400 {
		return readError(resp)
	}
	return fmt.Errorf("call the service at %s: %w", c.base, err)
}

// start says what to run, if it is a new terminal, and reads the first message.
func (t *Terminal) start(ctx context.Context, req TerminalRequest) error {
	if req.ID != "" {
		return t.begin(ctx)
	}
	message, err := json.Marshal(map[string]any{"type": "start", "cmd": req.Cmd, "cwd": req.Cwd, "user": req.User, "env": req.Env})
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if err := t.conn.Write(ctx, websocket.MessageText, message); err != nil {
		return fmt.Errorf("write terminal: %w", err)
	}
	return t.begin(ctx)
}

// begin reads the first message.
func (t *Terminal) begin(ctx context.Context) error {
	kind, data, err := t.conn.Read(ctx)
	if err != nil {
		return fmt.Errorf("read terminal: %w", err)
	}
	if kind != websocket.MessageText {
		return errors.New("a terminal begins with output")
	}
	var first struct {
		Type   string
		ID     string
		PID    int
		Offset int64
	}
	if err := json.Unmarshal(data, &first); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	switch first.Type {
	case "started":
		t.ID, t.PID, t.offset = first.ID, first.PID, first.Offset
		return nil
	case "error":
		return streamError(data)
	}
	return fmt.Errorf("a terminal begins with %q", first.Type)
}

// keepOpen finds out that the connection is dead when nothing else would.
func (t *Terminal) keepOpen(ctx context.Context) {
	tick := time.NewTicker(terminalPing)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(ctx, terminalPing)
		err := t.conn.Ping(limited)
		cancel()
		if err != nil {
			_ = t.conn.CloseNow() // Read says it
			return
		}
	}
}

// Read waits for what comes next: PTYOutput, Gap or, at last, Exited. An error is an *Error of the service, the
// context's, or one of the connection, after which the terminal can be opened again by its ID at Offset. A context
// that ends closes the terminal's connection.
func (t *Terminal) Read(ctx context.Context) (ProcessEvent, error) {
	for {
		kind, data, err := t.conn.Read(ctx)
		if err != nil {
			return ProcessEvent{}, fmt.Errorf("read terminal: %w", err)
		}
		event := ProcessEvent{Kind: PTYOutput, Data: data}
		if kind == websocket.MessageText {
			if event, err = terminalEvent(data); err != nil {
				return ProcessEvent{}, err
			}
		}
		t.offset += int64(len(event.Data)) + event.Bytes
		event.Offset = t.offset
		if event.Kind != "" {
			return event, nil
		}
	}
}

// terminalEvent reads a message that is known; others are for newer clients.
func terminalEvent(data []byte) (ProcessEvent, error) {
	var message struct {
		Type  string
		Bytes int64
		ExecExit
	}
	if err := json.Unmarshal(data, &message); err != nil {
		return ProcessEvent{}, fmt.Errorf("decode message: %w", err)
	}
	switch message.Type {
	case "gap":
		return ProcessEvent{Kind: Gap, Bytes: message.Bytes}, nil
	case "exit":
		return ProcessEvent{Kind: Exited, Exit: message.ExecExit}, nil
	case "error":
		return ProcessEvent{}, streamError(data)
	}
	return ProcessEvent{}, nil
}

// Offset is where in the output the next event begins. It is for the goroutine that reads.
func (t *Terminal) Offset() int64 { return t.offset }

// maxTerminalWrite is the most that one message carries, well below what the service takes.
const maxTerminalWrite = 64 << 10

// Write types b on the terminal.
func (t *Terminal) Write(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), maxTerminalWrite)
		if err := t.conn.Write(ctx, websocket.MessageBinary, b[:n]); err != nil {
			return fmt.Errorf("write terminal: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// Resize changes the size of the terminal.
func (t *Terminal) Resize(ctx context.Context, size TerminalSize) error {
	text := fmt.Sprintf(`{"type":"resize","cols":%d,"rows":%d}`, size.Cols, size.Rows)
	if err := t.conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// Close ends the connection, not the program. It may be called again.
func (t *Terminal) Close() error {
	t.stop()
	if err := t.conn.Close(websocket.StatusNormalClosure, ""); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close terminal: %w", err)
	}
	return nil
}
