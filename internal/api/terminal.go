package api

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/auth/grant"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	terminalTag = "wrenn-terminal:"
	ticketLife  = time.Minute
	// terminalProtocol is the WebSocket subprotocol, ticketProtocol the begin of one that only carries a ticket: a
	// browser can set no header.
	terminalProtocol = "wrenn.terminal"
	ticketProtocol   = "wrenn.ticket."

	defaultCols, defaultRows = 80, 24
	defaultTerminalSeconds   = 86400
	// loginShell runs the user's own shell, else what there is.
	loginShell = `for s in "$SHELL" /bin/bash; do [ -x "$s" ] && exec "$s" -l; done; exec /bin/sh -l`
)

// terminalEnv is what programs on a terminal look at; a browser's terminal and most others understand it.
var terminalEnv = map[string]string{"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}

// terminalRequest is the query of the terminal.
type terminalRequest struct {
	id      id.Terminal // empty: a new one
	offset  int64
	size    envdclient.Size
	resize  bool // of one that runs
	command envdclient.Command
	detach  bool
	awaits  bool // the client's first message says what to run
}

// terminalStart is the client's first message where the query says start=message: what must not end up in logs of URLs.
type terminalStart struct {
	Type string            `json:"type"`
	Cmd  string            `json:"cmd"`
	Cwd  string            `json:"cwd"`
	User string            `json:"user"`
	Env  map[string]string `json:"env"`
}

func (s *Server) createTerminalTicket(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	ticket, expires, err := s.sign(r, grant.Grant{Kind: grant.Terminal, Sandbox: sb, Account: by(r).Account}, ticketLife)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", noStore)
	s.writeJSON(w, http.StatusCreated, struct {
		Ticket    string  `json:"ticket"`
		ExpiresAt apiTime `json:"expires_at"`
	}{ticket, apiTime(expires)})
	return nil
}

// terminal answers what is wrong with the request by a response, and all that happens later on the WebSocket.
func (s *Server) terminal(w http.ResponseWriter, r *http.Request) error {
	sb, err := sandboxID(r)
	if err != nil {
		return err
	}
	account, err := s.terminalAccess(r, sb)
	if err != nil {
		return err
	}
	in, err := readTerminalRequest(r)
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return withStatus(http.StatusUpgradeRequired, models.Errorf(models.Invalid, "a terminal is a WebSocket"))
	}
	guest, used, err := s.Controller.Connection(r.Context(), account, sb)
	if err != nil {
		return err
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{terminalProtocol},
		// A page of any origin: keys and tickets are nothing that a browser adds by itself, so who has one may.
		InsecureSkipVerify: true,
	})
	if err != nil { // it has answered
		aboutOf(r.Context()).cause = err
		return nil
	}
	defer func() { _ = conn.CloseNow() }()
	t := &terminal{server: s, r: r, conn: conn, guest: guest, used: used}
	t.serve(in)
	return nil
}

// terminalAccess returns whose sandbox it is, if the request has the owner's key or a ticket.
func (s *Server) terminalAccess(r *http.Request, sb id.Sandbox) (id.Account, error) {
	if ticket := ticketOf(r); ticket != "" {
		signer, err := s.grants.get(r.Context())
		if err != nil {
			return "", err
		}
		g, err := signer.Check(grant.Terminal, ticket, time.Now())
		if err == nil && g.Sandbox != sb {
			err = models.Errorf(models.Forbidden, "the ticket is for another sandbox")
		}
		return g.Account, err
	}
	p, err := s.guestKey(r)
	return p.Account, err
}

func ticketOf(r *http.Request) string {
	if ticket := r.URL.Query().Get("ticket"); ticket != "" {
		return ticket
	}
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(header, ",") {
			if ticket, found := strings.CutPrefix(strings.TrimSpace(protocol), ticketProtocol); found {
				return ticket
			}
		}
	}
	return ""
}

func readTerminalRequest(r *http.Request) (in terminalRequest, err error) {
	q, err := query(r, []string{"id", "offset", "cols", "rows", "cmd", "cwd", "user", "detach", "timeout_seconds", "ticket", "start"})
	if err != nil {
		return in, err
	}
	number := func(name string, otherwise, least, most int64) int64 {
		text := q.Get(name)
		if text == "" || err != nil {
			return otherwise
		}
		n, failure := strconv.ParseInt(text, 10, 64)
		if failure != nil || n < least || n > most {
			err = models.Errorf(models.Invalid, "%s must be a number from %d to %d", name, least, most)
		}
		return n
	}
	in.resize = q.Has("cols") || q.Has("rows")
	in.size.Cols, in.size.Rows = int(number("cols", defaultCols, 1, maxTerminal)), int(number("rows", defaultRows, 1, maxTerminal))
	in.offset = number("offset", 0, envdclient.FromNow, 1<<62)
	limit := number("timeout_seconds", defaultTerminalSeconds, 1, maxProcessSeconds)
	if in.detach = q.Get("detach") != "false"; q.Has("detach") && q.Get("detach") != "true" && in.detach {
		err = models.Errorf(models.Invalid, "detach must be true or false")
	}
	if text := q.Get("id"); text != "" && err == nil {
		if in.id, err = id.ParseTerminal(text); err != nil {
			err = models.Errorf(models.Invalid, "%v", err)
		}
	}
	if in.awaits = q.Get("start") == "message"; q.Has("start") && !in.awaits && err == nil {
		err = models.Errorf(models.Invalid, "start can only be message")
	}
	if err != nil {
		return in, err
	}
	in.command = envdclient.Command{Timeout: time.Duration(limit) * time.Second, Stdin: true}
	return in, in.run(terminalStart{Cmd: q.Get("cmd"), Cwd: q.Get("cwd"), User: q.Get("user")})
}

// run says what a new terminal runs.
func (in *terminalRequest) run(start terminalStart) error {
	for _, err := range []error{
		checkText("cmd", start.Cmd, 0), checkText("cwd", start.Cwd, 0), checkText("user", start.User, 0), checkEnv(start.Env),
	} {
		if err != nil {
			return err
		}
	}
	script := start.Cmd
	if script == "" {
		script = loginShell
	}
	env := maps.Clone(terminalEnv)
	maps.Copy(env, start.Env)
	in.command.Cmd, in.command.Args, in.command.Env = "/bin/sh", []string{"-c", script}, env
	in.command.Cwd, in.command.User = start.Cwd, start.User
	return nil
}

// open starts or finds the process of a terminal and attaches to it.
func (in *terminalRequest) open(ctx context.Context, guest *envdclient.Client) (*envdclient.Attachment, error) {
	if in.id == "" {
		in.id, in.offset = id.NewTerminal(), 0
		_, err := guest.Start(ctx, envdclient.Spec{Command: in.command, Tag: terminalTag + string(in.id), PTY: &in.size})
		if err != nil {
			return nil, err
		}
	} else if in.resize {
		err := guest.Resize(ctx, in.selector(), in.size)
		if err != nil && models.CodeOf(err) != models.Precondition { // one that has ended needs no size
			return nil, in.missing(err)
		}
	}
	a, err := guest.Attach(ctx, in.selector(), in.offset)
	return a, in.missing(err)
}

func (in *terminalRequest) missing(err error) error {
	if models.CodeOf(err) != models.NotFound {
		return err
	}
	return models.Errorf(models.NotFound, "there is no terminal %s, or it has ended a while ago", in.id).WithCause(err)
}

func (in *terminalRequest) selector() envdclient.Selector {
	return envdclient.Selector{Tag: terminalTag + string(in.id)}
}

// hangUp ends a terminal whose client does not want it to outlive the connection.
func (t *terminal) hangUp(ctx context.Context, which envdclient.Selector) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execMargin)
	defer cancel()
	if err := t.guest.Signal(ctx, which, syscall.SIGKILL); err != nil && models.CodeOf(err) != models.Precondition {
		aboutOf(t.r.Context()).cause = err
	}
}
