package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

const (
	// again is within which time a second Ctrl-C kills.
	again = 2 * time.Second
	// killLimit bounds the killing of a program that is given up.
	killLimit = 10 * time.Second
)

// errGivenUp is why a program is followed no longer: its user has had enough.
var errGivenUp = errors.New("interrupted")

// following is a program that runs in a sandbox for as long as this command does.
type following struct {
	app    *app
	client *wrenn.Client
	id     string
	pid    int
	cancel context.CancelCauseFunc // ends the following with a reason
}

// follow runs a program to its end. It takes the signals of this process, which go to the program.
func (a *app) follow(client *wrenn.Client, id string, req wrenn.ProcessRequest, stdout, stderr io.Writer) (wrenn.ExecExit, error) {
	// SIGPIPE is among them, so that a reader that has gone is an error of the write and the program can be killed.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	f := &following{app: a, client: client, id: id, cancel: cancel}
	stream, err := f.start(ctx, req, signals)
	if err != nil {
		return wrenn.ExecExit{}, err
	}
	defer stream.Close()
	if req.Stdin {
		go f.feed(ctx, newPump(a.stdin)) // ends with ctx; the program's end does not wait for input
	}
	go f.relay(ctx, signals)
	exit, err := stream.Copy(stdout, stderr)
	return f.conclude(ctx, exit, err)
}

// start starts the program; a signal before it runs ends the attempt.
func (f *following) start(ctx context.Context, req wrenn.ProcessRequest, signals <-chan os.Signal) (*wrenn.ProcessStream, error) {
	began := make(chan struct{})
	defer close(began)
	go func() {
		for {
			select {
			case s := <-signals:
				if s != unix.SIGPIPE {
					f.cancel(errGivenUp)
				}
			case <-began:
				return
			}
		}
	}()
	stream, err := f.client.RunProcess(ctx, f.id, req)
	if err != nil && ctx.Err() != nil {
		return nil, exitStatus(128 + int(unix.SIGINT))
	}
	if err == nil {
		f.pid = stream.PID
	}
	return stream, err
}

// conclude makes sure that nothing is left running, unless the program has ended.
func (f *following) conclude(ctx context.Context, exit wrenn.ExecExit, err error) (wrenn.ExecExit, error) {
	var missing *wrenn.MissingOutputError
	if err == nil || errors.As(err, &missing) {
		return exit, err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	f.kill()
	switch {
	case errors.Is(err, errGivenUp):
		return exit, exitStatus(128 + int(unix.SIGINT))
	case errors.Is(err, syscall.EPIPE):
		return exit, exitStatus(128 + int(unix.SIGPIPE))
	}
	return exit, err
}

// kill ends the program, or says that it may still run.
func (f *following) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if _, err := f.client.KillProcess(ctx, f.id, f.pid); err != nil && wrenn.CodeOf(err) != wrenn.NotFound {
		fmt.Fprintf(f.app.stderr, "wrenn: the program may still run; to kill it: wrenn kill %s %d -s KILL\n", printable(f.id), f.pid)
	}
}

// relay sends the signals of this process to the program. A second Ctrl-C soon after the first gives the program up, which
// kills it.
func (f *following) relay(ctx context.Context, signals <-chan os.Signal) {
	var last time.Time
	for {
		var s os.Signal
		select {
		case s = <-signals:
		case <-ctx.Done():
			return
		}
		sig := s.(syscall.Signal) // as all signals of Linux are
		if sig == unix.SIGPIPE {
			continue
		}
		if sig == unix.SIGINT && time.Since(last) < again {
			f.cancel(errGivenUp)
			return
		}
		if sig == unix.SIGINT {
			last = time.Now()
		}
		go f.tell(ctx, unix.SignalName(sig)) // a slow answer must not keep the next signal
	}
}

func (f *following) tell(ctx context.Context, name string) {
	err := f.client.SignalProcess(ctx, f.id, f.pid, name)
	if code := wrenn.CodeOf(err); err != nil && ctx.Err() == nil && code != wrenn.Precondition && code != wrenn.NotFound {
		fmt.Fprintf(f.app.stderr, "wrenn: %s did not reach the program: %s\n", name, lines(err.Error()))
	}
}

// feed passes standard input on until it ends, or the program takes no more. Where the connection breaks while nothing was on
// its way it goes on; otherwise the program is given up: it is not known what has arrived.
func (f *following) feed(ctx context.Context, input *pump) {
	for {
		body := input.body(ctx)
		err := f.client.WriteStdin(ctx, f.id, f.pid, body, true)
		code := wrenn.CodeOf(err)
		switch {
		case err == nil, ctx.Err() != nil, code == wrenn.Precondition, code == wrenn.NotFound:
			return // taken, or the program has ended or closed its input
		case input.failed() != nil:
			f.cancel(models.Errorf(models.Internal, "read standard input: %v", input.failed()))
			return
		case code != wrenn.Unavailable || body.taken():
			f.cancel(fmt.Errorf("pass on standard input: %w", err))
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}
