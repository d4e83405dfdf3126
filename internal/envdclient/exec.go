package envdclient

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// Command says what to run.
type Command struct {
	Cmd     string // a path, or a name that is looked up in PATH of the process's environment
	Args    []string
	Cwd     string // absolute or relative to the user's home; empty: the default one
	Env     map[string]string
	User    string        // empty: the default one
	Timeout time.Duration // 0: none; when it runs out the process and all it started are killed
	Stdin   bool          // whether there will be input; otherwise the process reads end of file at once
}

// Event is what happens to a process: of an Exec Started first, then any output, at last Exited.
type Event interface{ event() }

// Started says that the process runs.
type Started struct{ PID uint32 }

// Stdout is a piece of standard output of at most 1 MiB, cut anywhere.
type Stdout []byte

// Stderr is the same of standard error.
type Stderr []byte

// Exited says how the process ended. No event follows.
type Exited struct {
	Code      int // -1 when a signal ended it
	Signal    int // as in signal(7), 0 for none
	TimedOut  bool
	OOMKilled bool // it, or something that it started, was killed for want of memory
}

func (Started) event() {}
func (Stdout) event()  {}
func (Stderr) event()  {}
func (Exited) event()  {}

// Exec is a process that was started. Next is for one goroutine; the other methods may be
// called at any time.
type Exec struct {
	client *Client
	pid    uint32
	caller context.Context // of Exec's caller: its end kills the process
	ctx    context.Context // of the stream: outlives caller until the process has been killed
	cancel context.CancelCauseFunc
	stream *connect.ServerStreamForClient[pb.StartResponse]
	watch  *watchdog
	undo   []func() bool // stops what was set up for the end of caller
	kills  sync.WaitGroup

	started bool // Started was delivered
	exited  *Exited
	err     error       // the last thing that Next returned
	timer   *time.Timer // fires when envd has not kept the timeout; nil without one

	mu   sync.Mutex
	over bool // no kill begins any more
}

// Exec starts a process and returns when it runs, or with the reason why it does not. When
// ctx ends, the process and all that it started are killed, and Next says so. The caller calls Close.
func (c *Client) Exec(ctx context.Context, command Command) (*Exec, error) {
	if err := command.check(); err != nil {
		return nil, err
	}
	if ended := contextError(ctx); ended != nil {
		return nil, ended
	}
	e := &Exec{client: c, caller: ctx}
	e.ctx, e.cancel = c.bound(context.WithoutCancel(ctx))
	e.watch = newWatchdog(c.limits.silence, e.cancel)
	// Until the pid is known the process can only be killed by ending the call.
	early := context.AfterFunc(ctx, func() { e.cancel(context.Cause(ctx)) })
	failure := e.start(command)
	if !early() && failure == nil {
		failure = contextError(ctx)
	}
	if failure != nil {
		e.release()
		return nil, failure
	}
	if command.Timeout > 0 {
		limit := command.Timeout + c.limits.grace
		e.timer = time.AfterFunc(limit, func() { e.cancel(errSilent) })
	}
	e.undo = append(e.undo, context.AfterFunc(ctx, e.kill))
	return e, nil
}

// check refuses what the protocol cannot say.
func (c *Command) check() error {
	texts := append([]string{c.Cmd, c.Cwd, c.User}, c.Args...)
	for name, value := range c.Env {
		texts = append(texts, name, value)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return models.Errorf(models.Invalid, "commands, arguments and variables must be valid UTF-8, unlike %q", clean(text))
		}
	}
	if c.Timeout < 0 {
		return models.Errorf(models.Invalid, "the timeout must not be negative")
	}
	return nil
}

// start makes the call and reads the first event.
func (e *Exec) start(command Command) *models.Error {
	e.watch.arm()
	req := e.client.startRequest(command)
	req.Header().Set(headerKillOnDisconnect, "1")
	stream, err := e.client.rpc.Start(e.ctx, req)
	if err != nil {
		return rpcError(e.ctx, err)
	}
	e.stream = stream
	if !stream.Receive() {
		return rpcError(e.ctx, streamError(stream.Err()))
	}
	if e.pid = stream.Msg().GetEvent().GetStart().GetPid(); e.pid == 0 {
		return transportError(e.ctx, errors.New("the first event is no start event"))
	}
	e.watch.rest()
	return nil
}

func (c *Client) startRequest(command Command) *connect.Request[pb.StartRequest] {
	config := &pb.ProcessConfig{Cmd: command.Cmd, Args: command.Args, Envs: command.Env}
	if command.Cwd != "" {
		config.Cwd = &command.Cwd
	}
	req := connect.NewRequest(&pb.StartRequest{Process: config, Stdin: &command.Stdin})
	c.authorize(req.Header())
	actAs(req.Header(), command.User)
	req.Header().Set(headerKeepalive, keepaliveSeconds)
	if command.Timeout > 0 {
		req.Header().Set("Connect-Timeout-Ms", strconv.FormatInt(max(1, command.Timeout.Milliseconds()), 10))
	}
	return req
}

// actAs names the user of the guest whom a request is made as.
func actAs(header http.Header, user string) {
	if user != "" {
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	}
}

// streamError gives the end of a stream a name where nothing else has.
func streamError(err error) error {
	if err == nil {
		return errors.New("the stream ended early")
	}
	return err
}

// PID returns the process id in the guest.
func (e *Exec) PID() uint32 { return e.pid }

// Next waits for the next event. After Exited it returns io.EOF. An error is the last thing it
// returns: the caller's context has ended, and the process with it, or the guest has gone away.
func (e *Exec) Next() (Event, error) {
	if !e.started {
		e.started = true
		return Started{PID: e.pid}, nil
	}
	if e.err != nil {
		return nil, e.err
	}
	event, err := e.next()
	e.err = err
	return event, err
}

// Signal sends sig to the process's group; SIGKILL reaches all that it started.
func (e *Exec) Signal(ctx context.Context, sig syscall.Signal) error {
	return e.client.Signal(ctx, e.selector(), sig)
}

func (e *Exec) selector() Selector { return Selector{PID: e.pid} }

// kill is what the end of the caller's context does. It gives the guest a limited time to end the process,
// then ends the stream, at which the guest kills the process by itself if it can.
func (e *Exec) kill() {
	e.mu.Lock()
	if e.over {
		e.mu.Unlock()
		return
	}
	e.kills.Add(1)
	e.mu.Unlock()
	defer e.kills.Done()
	ctx, cancel := context.WithTimeout(e.ctx, e.client.limits.killWait)
	defer cancel()
	_ = e.Signal(ctx, syscall.SIGKILL) // if that fails the end of the stream does it
	<-ctx.Done()                       // Next or Close ends it earlier, through e.ctx
	e.cancel(context.Cause(e.caller))
}

// Close frees what the Exec holds. A process that still runs is killed, with all that it started, by the
// guest when it sees that its caller has gone. Close can be repeated.
func (e *Exec) Close() error {
	for _, undo := range e.undo {
		undo()
	}
	e.mu.Lock()
	e.over = true
	e.mu.Unlock()
	e.release()
	e.kills.Wait()
	return nil
}

func (e *Exec) release() {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.watch.stop()
	e.cancel(nil)
	if e.stream != nil {
		_ = e.stream.Close() // says only what Next has said
	}
}
