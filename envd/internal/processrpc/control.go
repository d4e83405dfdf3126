package processrpc

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
)

// maxSignal is SIGRTMAX of signal(7).
const maxSignal = 64

func (h *Handler) sendSignal(_ context.Context, call *connect.Call, req *SendSignalRequest) (*Empty, error) {
	if req.Signal < 1 || req.Signal > maxSignal {
		return nil, connect.Errorf(connect.InvalidArgument, "invalid signal: %d", req.Signal)
	}
	p, err := h.running(call, req.Process)
	if err != nil {
		return nil, err
	}
	err = p.Signal(unix.Signal(req.Signal))
	if errors.Is(err, os.ErrProcessDone) && extended(call) {
		return nil, errEnded
	}
	return &Empty{}, wireError(err)
}

func (h *Handler) sendInput(ctx context.Context, call *connect.Call, req *SendInputRequest) (*Empty, error) {
	p, err := h.running(call, req.Process)
	if err != nil {
		return nil, err
	}
	return &Empty{}, feed(ctx, p, req.Input)
}

func (h *Handler) streamInput(ctx context.Context, call *connect.Call, receive func() (*StreamInputRequest, error)) (*Empty, error) {
	var p *process.Process
	for {
		event, err := receive()
		if errors.Is(err, io.EOF) {
			return &Empty{}, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case event.Start != nil:
			p, err = h.running(call, event.Start.Process)
		case event.Data != nil && p == nil:
			err = connect.Errorf(connect.InvalidArgument, "input came before a start event")
		case event.Data != nil:
			err = feed(ctx, p, event.Data.Input)
		case event.Keepalive == nil:
			err = connect.Errorf(connect.InvalidArgument, "an event says nothing")
		}
		if err != nil {
			return nil, err
		}
	}
}

func feed(ctx context.Context, p *process.Process, input *ProcessInput) error {
	switch {
	case input != nil && input.Stdin != nil && p.Terminal():
		return connect.Errorf(connect.FailedPrecondition, "the process runs on a terminal: its input is pty, not stdin")
	case input != nil && input.PTY != nil && !p.Terminal():
		return connect.Errorf(connect.FailedPrecondition, "the process does not run on a terminal: its input is stdin, not pty")
	case input != nil && input.Stdin != nil:
		return wireError(p.Write(ctx, input.Stdin))
	case input != nil && input.PTY != nil:
		return wireError(p.Write(ctx, input.PTY))
	}
	return connect.Errorf(connect.InvalidArgument, "the input is empty")
}

func (h *Handler) closeStdin(_ context.Context, call *connect.Call, req *CloseStdinRequest) (*Empty, error) {
	p, err := h.running(call, req.Process)
	if err != nil {
		return nil, err
	}
	return &Empty{}, wireError(p.CloseInput())
}

func (h *Handler) update(_ context.Context, call *connect.Call, req *UpdateRequest) (*Empty, error) {
	p, err := h.running(call, req.Process)
	if err != nil || req.PTY == nil {
		return &Empty{}, err
	}
	return &Empty{}, wireError(p.Resize(*sizeOf(req.PTY)))
}

// sizeOf returns the size of a terminal, nil for none.
func sizeOf(pty *PTY) *process.Size {
	switch {
	case pty == nil:
		return nil
	case pty.Size == nil:
		return &process.Size{}
	}
	return &process.Size{Cols: pty.Size.Cols, Rows: pty.Size.Rows}
}
