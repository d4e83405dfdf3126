package processrpc

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// maxSignal is SIGRTMAX of signal(7).
const maxSignal = 64

// SendSignal is the service's SendSignal.
func (h *Handler) SendSignal(_ context.Context, req *connect.Request[pb.SendSignalRequest]) (*connect.Response[pb.SendSignalResponse], error) {
	signal := req.Msg.GetSignal()
	if signal < 1 || signal > maxSignal {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("invalid signal: %d", signal))
	}
	p, err := h.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := p.Signal(unix.Signal(signal)); err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(&pb.SendSignalResponse{}), nil
}

// SendInput is the service's SendInput.
func (h *Handler) SendInput(ctx context.Context, req *connect.Request[pb.SendInputRequest]) (*connect.Response[pb.SendInputResponse], error) {
	p, err := h.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := feed(ctx, p, req.Msg.GetInput()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.SendInputResponse{}), nil
}

// StreamInput is the service's StreamInput.
func (h *Handler) StreamInput(ctx context.Context, stream *connect.ClientStream[pb.StreamInputRequest]) (*connect.Response[pb.StreamInputResponse], error) {
	var p *process.Process
	for stream.Receive() {
		var err error
		switch event := stream.Msg().GetEvent().(type) {
		case *pb.StreamInputRequest_Start:
			p, err = h.find(event.Start.GetProcess())
		case *pb.StreamInputRequest_Data:
			if p == nil {
				err = connect.NewError(connect.CodeInvalidArgument, errors.New("input came before a start event"))
				break
			}
			err = feed(ctx, p, event.Data.GetInput())
		case *pb.StreamInputRequest_Keepalive:
		default:
			err = connect.NewError(connect.CodeInvalidArgument, errors.New("an event says nothing"))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.StreamInputResponse{}), nil
}

func feed(ctx context.Context, p *process.Process, input *pb.ProcessInput) error {
	switch in := input.GetInput().(type) {
	case *pb.ProcessInput_Stdin:
		return wireError(p.Write(ctx, in.Stdin))
	case *pb.ProcessInput_Pty:
		return unimplemented("input to a pty")
	}
	return connect.NewError(connect.CodeInvalidArgument, errors.New("the input is empty"))
}

// CloseStdin is the service's CloseStdin.
func (h *Handler) CloseStdin(_ context.Context, req *connect.Request[pb.CloseStdinRequest]) (*connect.Response[pb.CloseStdinResponse], error) {
	p, err := h.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	p.CloseInput()
	return connect.NewResponse(&pb.CloseStdinResponse{}), nil
}

// Update is the service's Update.
func (h *Handler) Update(context.Context, *connect.Request[pb.UpdateRequest]) (*connect.Response[pb.UpdateResponse], error) {
	return nil, unimplemented("resize a pty")
}
