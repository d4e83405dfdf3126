package interpreter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// stopLimit is how long interrupted code may take to end before its context is ended. Meanwhile the interrupt is repeated every
// interruptPause: one may have come while code cleaned up after another.
const stopLimit, interruptPause = 10 * time.Second, 2 * time.Second

// Code is what to execute.
type Code struct {
	Text    string
	Timeout time.Duration // at which it is interrupted; 0 for none
}

// Event is what happens during an execution: Accepted first; any number of Stdout, Stderr, Result and Gap, at most one Failure,
// one End.
type Event interface{ event() }

// Accepted says that the context has the code; it may have other code to execute before.
type Accepted struct{}

// Stdout is text that the code wrote to its standard output.
type Stdout string

// Stderr is the same of its standard error.
type Stderr string

// Gap says that this many bytes of the kernel's messages were lost, because they came faster than they were read.
type Gap uint64

// Result is a value, by MIME type.
type Result struct {
	Main bool // whether it is the value of the last expression
	Data map[string]json.RawMessage
}

// Failure is an error of the code itself.
type Failure struct {
	Name, Value string
	Traceback   []string
}

// Status says how an execution ended.
type Status string

// The ways in which an execution ends.
const (
	OK          Status = "ok"
	Failed      Status = "error"
	Interrupted Status = "interrupted"
	TimedOut    Status = "timed_out"
)

// End is the last event.
type End struct {
	Status         Status
	ExecutionCount int // 0 when the code never began
}

func (Accepted) event() {}
func (Stdout) event()   {}
func (Stderr) event()   {}
func (Gap) event()      {}
func (Result) event()   {}
func (Failure) event()  {}
func (End) event()      {}

// request is a line to a kernel: to execute code, or to interrupt the request with that ID, or what runs.
type request struct {
	ID   string `json:"id,omitempty"`
	Op   string `json:"op"`
	Code string `json:"code"`
}

// execution is one request to a context.
type execution struct {
	guest Guest
	which envdclient.Selector
	id    string
	begun atomic.Bool // whether its code has begun
}

// Execute runs code in a context and gives each event to emit as it happens. When ctx ends or the code's time has run out,
// the code is interrupted; if it does not heed that within stopLimit its context is ended. An error of emit counts as the
// end of ctx. Errors: NotFound for an unknown context, Precondition for an interpreter that crashed meanwhile.
func Execute(ctx context.Context, guest Guest, name id.Context, code Code, emit func(Event) error) error {
	x := &execution{guest: guest, which: selector(name), id: string(id.NewRequest())}
	// The stream outlives ctx, until the interrupted code has ended.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	a, err := guest.Attach(streamCtx, x.which, envdclient.FromNow)
	if err != nil {
		return orMissing(name, err)
	}
	defer a.Close()
	if err := send(ctx, guest, x.which, request{ID: x.id, Op: "execute", Code: code.Text}); err != nil {
		return orMissing(name, err)
	}
	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if code.Timeout > 0 {
		timer := time.AfterFunc(code.Timeout, func() { stop(errTimedOut) })
		defer timer.Stop()
	}
	ended := make(chan struct{})
	defer close(ended)
	go x.interruptAtEnd(runCtx, ended, cancel)
	if err := emit(Accepted{}); err != nil {
		stop(err)
	}
	return x.relay(runCtx, &lines{next: a.Next}, stop, emit)
}

var errTimedOut = errors.New("the code's time has run out")

// send writes one line to a kernel, whole: others may write to it at the same time.
func send(ctx context.Context, guest Guest, which envdclient.Selector, r request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a request: %w", err)
	}
	return guest.SendInput(ctx, which, append(line, '\n'))
}

// interruptAtEnd interrupts this execution when ctx ends before it, whether its code runs or waits for other code. If that does not
// help it kills the kernel, but for code that has not begun, and as the last means ends the stream by abandon.
func (x *execution) interruptAtEnd(ctx context.Context, ended <-chan struct{}, abandon func()) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if x.insist(limited, ended) {
		return
	}
	if x.begun.Load() {
		limited, cancel = context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		_ = x.guest.Signal(limited, x.which, syscall.SIGKILL) // then the stream ends, or is abandoned
		select {
		case <-ended:
			return
		case <-limited.Done():
		}
	}
	abandon()
}

// insist interrupts until the execution has ended, which it reports, or ctx has.
func (x *execution) insist(ctx context.Context, ended <-chan struct{}) bool {
	again := time.NewTicker(interruptPause)
	defer again.Stop()
	for {
		_ = send(ctx, x.guest, x.which, request{ID: x.id, Op: "interrupt"}) // a kernel that has ended ends the stream too
		select {
		case <-ended:
			return true
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
}

// relay reads messages until the one that ends the execution.
func (x *execution) relay(ctx context.Context, from *lines, stop context.CancelCauseFunc, emit func(Event) error) error {
	for {
		m, err := from.message()
		var gap gapError
		var event Event
		switch {
		case errors.As(err, &gap):
			event = Gap(gap.bytes)
		case err != nil:
			return x.lost(ctx, err)
		case m.ID != x.id:
			continue // another's
		default:
			event = x.event(ctx, m)
		}
		if event == nil {
			continue
		}
		if err := emit(event); err != nil {
			stop(err) // the client has gone: what runs is interrupted, and its end awaited
		}
		if _, last := event.(End); last {
			return nil
		}
	}
}

// event translates a message; nil for one that says nothing to the caller.
func (x *execution) event(ctx context.Context, m message) Event {
	switch m.Type {
	case "begin":
		x.begun.Store(true)
	case "stdout":
		return Stdout(m.Text)
	case "stderr":
		return Stderr(m.Text)
	case "result":
		return Result{Main: m.Main, Data: m.Data}
	case "error":
		return Failure{Name: m.Name, Value: m.Value, Traceback: m.Traceback}
	case "end":
		end := End{Status: x.status(ctx, m.Status)}
		if x.begun.Load() {
			end.ExecutionCount = max(0, m.ExecutionCount)
		}
		return end
	}
	return nil
}

// status is the kernel's, but for a timeout, of which the kernel knows nothing.
func (x *execution) status(ctx context.Context, said string) Status {
	switch s := Status(said); s {
	case OK, Failed:
		return s
	default:
		if errors.Is(context.Cause(ctx), errTimedOut) {
			return TimedOut
		}
		return Interrupted
	}
}

// lost explains why the end of an execution cannot be known.
func (x *execution) lost(ctx context.Context, err error) error {
	var exited errExited
	switch {
	case ctx.Err() != nil && !errors.As(err, &exited):
		return models.Errorf(models.Unavailable, "the interpreter does not answer; it may be busy with other code").WithCause(err)
	case errors.As(err, &exited) && ctx.Err() != nil:
		return models.Errorf(models.Precondition, "the code did not heed the interrupt, so its context was ended").WithCause(err)
	case errors.As(err, &exited) && exited.OOMKilled:
		return models.Errorf(models.Precondition, "the interpreter was killed for want of memory, and its context is gone").WithCause(err)
	case errors.As(err, &exited):
		return models.Errorf(models.Precondition, "the interpreter crashed (%s), and its context is gone", describe(exited.Exited)).WithCause(err)
	}
	return err
}

func describe(e envdclient.Exited) string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d", e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}
