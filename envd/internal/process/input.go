package process

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// input is a process's standard input. Writers take turns; closing does not wait for them.
type input struct {
	turn chan struct{} // holds a value while somebody writes

	mu   sync.Mutex
	pipe *os.File // nil when there is none, or none any more
	// terminal is whether pipe is a terminal, whose output is read from the same file by somebody else.
	terminal bool
}

func newInput(pipes *stdio) *input {
	in := &input{turn: make(chan struct{}, 1), pipe: pipes.stdin}
	if pipes.terminal != nil {
		in.pipe, in.terminal = pipes.terminal, true
	}
	return in
}

// write returns once the pipe has taken all of data, the input is closed, the process has
// ended, or ctx has. In the last case a part may have been taken; the error says how much.
func (in *input) write(ctx context.Context, data []byte) error {
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	pipe := in.open()
	if pipe == nil {
		return errorf(Ended, "the process's standard input is closed")
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = pipe.SetWriteDeadline(time.Unix(1, 0))
	})
	n, err := pipe.Write(data)
	if !stop() {
		<-cut
		in.reopen() // for the next writer
	}
	return writeError(ctx, n, len(data), err)
}

func (in *input) open() *os.File {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.pipe
}

// reopen takes back the deadline that ended a write.
func (in *input) reopen() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pipe != nil {
		_ = in.pipe.SetWriteDeadline(time.Time{})
	}
}

func writeError(ctx context.Context, n, size int, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return errorf(Ended, "the request ended when the process had taken %d of %d bytes", n, size)
	case errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.EIO), errors.Is(err, os.ErrDeadlineExceeded):
		return errorf(Ended, "the process's standard input was closed after %d of %d bytes", n, size)
	}
	return err
}

// close gives the process end of file once it has read what the pipe holds. It can be repeated. A terminal has no
// end: it only takes no more.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.pipe == nil:
		return
	case in.terminal:
		_ = in.pipe.SetWriteDeadline(time.Unix(1, 0)) // for whoever waits in its write
	default:
		_ = in.pipe.Close()
	}
	in.pipe = nil
}
