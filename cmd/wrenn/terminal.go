package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// reattachFor is how long a terminal whose connection broke is attached to again, if nothing comes of it.
const reattachFor = time.Minute

// errDetached is why a terminal is left: its user wants it to go on without this command.
var errDetached = errors.New("detached")

// session is a terminal in a sandbox that is shown on this one.
type session struct {
	app    *app
	client *wrenn.Client
	id     string
	req    wrenn.TerminalRequest
	since  time.Time // when the connection broke; zero since something came
}

// execTerminal runs a program on a terminal. The program ends with this command.
func (a *app) execTerminal(ctx context.Context, client *wrenn.Client, id string, req wrenn.ProcessRequest) (wrenn.ExecExit, error) {
	s := &session{app: a, client: client, id: id}
	s.req = wrenn.TerminalRequest{Cmd: commandLine(req), Cwd: req.Cwd, User: req.User, Env: req.Env, Timeout: req.Timeout}
	exit, pid, err := s.run(ctx)
	if err != nil && pid > 0 {
		(&following{app: a, client: client, id: id, pid: pid}).kill()
	}
	if errors.Is(err, errDetached) || errors.Is(err, context.Canceled) { // "~." gives a program up
		return exit, exitStatus(128 + int(unix.SIGHUP))
	}
	return exit, err
}

// commandLine is a request as one line of sh(1), which is what a terminal takes.
func commandLine(req wrenn.ProcessRequest) string {
	program := append([]string{req.Cmd}, req.Args...)
	if req.Shell != "" {
		program = []string{"/bin/sh", "-c", req.Shell}
	}
	line := "exec"
	for _, word := range program {
		line += " " + quoted(word)
	}
	return line
}

// quoted is a word that sh(1) takes as it is.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// run shows the terminal until its program ends or the terminal is left. Whatever happens, this terminal is as it was before
// when run returns.
func (s *session) run(ctx context.Context) (exit wrenn.ExecExit, pid int, err error) {
	in := int(s.app.stdin.Fd())
	if !term.IsTerminal(in) {
		return exit, 0, models.Errorf(models.Precondition, "standard input is no terminal").WithHint("without a terminal: wrenn exec SANDBOX -- PROGRAM")
	}
	s.req.Size = s.size()
	terminal, err := s.client.OpenTerminal(ctx, s.id, s.req)
	if err != nil {
		return exit, 0, err
	}
	s.req.ID, pid = terminal.ID, terminal.PID
	before, err := term.MakeRaw(in)
	if err != nil {
		_ = terminal.Close() // err says more
		return exit, pid, fmt.Errorf("prepare the terminal: %w", err)
	}
	defer func() { err = errors.Join(err, term.Restore(in, before)) }()
	exit, err = s.relay(ctx, terminal)
	return exit, pid, err
}

// relay shows the terminal, over as many connections as it takes.
func (s *session) relay(ctx context.Context, terminal *wrenn.Terminal) (wrenn.ExecExit, error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGHUP, unix.SIGQUIT) // beside those of main
	defer stop()
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, unix.SIGWINCH)
	defer signal.Stop(sizes)
	keys := newKeys(s.app.stdin)
	for {
		alive, drop := context.WithCancel(ctx)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			s.send(alive, terminal, keys, sizes, leave)
		}()
		exit, err := s.show(alive, terminal)
		drop()
		<-sent
		if terminal, err = s.again(ctx, terminal, err); terminal == nil {
			return exit, err
		}
	}
}

func (s *session) size() wrenn.TerminalSize {
	cols, rows, err := term.GetSize(int(s.app.stdin.Fd()))
	if err != nil || cols < 1 || rows < 1 {
		return wrenn.TerminalSize{Cols: 80, Rows: 24}
	}
	return wrenn.TerminalSize{Cols: cols, Rows: rows}
}

// show writes what comes until the program ends.
func (s *session) show(ctx context.Context, terminal *wrenn.Terminal) (wrenn.ExecExit, error) {
	for {
		event, err := terminal.Read(ctx)
		if err != nil {
			return wrenn.ExecExit{}, err
		}
		s.since = time.Time{}
		switch event.Kind {
		case wrenn.Exited:
			return event.Exit, nil
		case wrenn.Gap:
			_, err = fmt.Fprintf(s.app.stdout, "\r\n[%d bytes are missing here]\r\n", event.Bytes)
		default:
			_, err = s.app.stdout.Write(event.Data)
		}
		if err != nil {
			return wrenn.ExecExit{}, models.Errorf(models.Internal, "write to the terminal: %v", err)
		}
	}
}

// send types what is typed here and follows the size, until ctx ends.
func (s *session) send(ctx context.Context, terminal *wrenn.Terminal, keys *keys, sizes <-chan os.Signal, leave context.CancelCauseFunc) {
	_ = terminal.Resize(ctx, s.size()) // it may have changed meanwhile; Read says when the connection is broken
	for {
		select {
		case typed, more := <-keys.typed:
			if !more {
				leave(keys.reason)
				return
			}
			if terminal.Write(ctx, typed) != nil {
				return // Read says it
			}
		case <-sizes:
			_ = terminal.Resize(ctx, s.size())
		case <-ctx.Done():
			return
		}
	}
}

// again attaches again after a connection broke with cause. Without a terminal the session has ended, with an error or nil.
func (s *session) again(ctx context.Context, terminal *wrenn.Terminal, cause error) (*wrenn.Terminal, error) {
	s.req.Offset = terminal.Offset()
	_ = terminal.Close() // cause says more
	if s.since.IsZero() {
		s.since = time.Now()
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		var coded *wrenn.Error
		var local *models.Error
		switch {
		case cause == nil:
			return nil, nil
		case errors.Is(context.Cause(ctx), errDetached):
			return nil, errDetached
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(cause, &local), errors.As(cause, &coded) && coded.Code != wrenn.Unavailable, time.Since(s.since) > reattachFor:
			return nil, cause
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			continue
		}
		if terminal, cause = s.client.OpenTerminal(ctx, s.id, s.req); cause == nil {
			return terminal, nil
		}
	}
}

// keys are what is typed here, without the escape sequences.
type keys struct {
	typed  chan []byte
	reason error // why typed was closed
}

// newKeys begins to read. It ends with the process: a read of a terminal cannot be called off.
func newKeys(f *os.File) *keys {
	k := &keys{typed: make(chan []byte)}
	go func() {
		defer close(k.typed)
		escape := escape{atLineStart: true}
		for {
			buf := make([]byte, 4096)
			n, err := f.Read(buf)
			typed, detach := escape.filter(buf[:n])
			if len(typed) > 0 {
				k.typed <- typed
			}
			switch {
			case detach:
				k.reason = errDetached
				return
			case err != nil: // the terminal was closed
				k.reason = context.Canceled
				return
			}
		}
	}()
	return k
}

// escape finds "~." at the beginning of a line, as ssh(1) does; "~~" is one "~".
type escape struct {
	atLineStart bool
	tilde       bool // one was typed at the beginning of a line, and is held back
}

func (e *escape) filter(typed []byte) (rest []byte, detach bool) {
	for _, b := range typed {
		held := e.tilde
		e.tilde = false
		switch {
		case held && b == '.':
			return rest, true
		case held && b != '~':
			rest = append(rest, '~')
		case !held && b == '~' && e.atLineStart:
			e.tilde, e.atLineStart = true, false
			continue
		}
		rest = append(rest, b)
		e.atLineStart = b == '\r' || b == '\n'
	}
	return rest, false
}
