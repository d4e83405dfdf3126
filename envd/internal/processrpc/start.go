package processrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// defaultKeepalive is the protocol's; a request may ask for 1 s to maxKeepalive.
const defaultKeepalive, maxKeepalive = 90 * time.Second, time.Hour

// Start is the service's Start.
func (h *Handler) Start(ctx context.Context, req *connect.Request[pb.StartRequest], stream *connect.ServerStream[pb.StartResponse]) error {
	if req.Msg.GetPty() != nil {
		return unimplemented("start on a pty")
	}
	spec, err := h.spec(ctx, req)
	if err != nil {
		return err
	}
	p, reader, err := h.processes.Start(spec)
	if err != nil {
		return wireError(err)
	}
	defer reader.Close()
	f := follower{
		p: p, reader: reader, keepalive: keepalive(req.Header()), trailer: stream.ResponseTrailer(),
		send: func(e *pb.ProcessEvent) error { return stream.Send(&pb.StartResponse{Event: e}) },
	}
	err = f.follow(ctx)
	if errors.Is(err, errAbandoned) && req.Header().Get(HeaderKillOnDisconnect) == "1" {
		_ = p.Kill() // nobody is left to tell
	}
	return err
}

// spec is what a request asks to start.
func (h *Handler) spec(ctx context.Context, req *connect.Request[pb.StartRequest]) (*process.Spec, error) {
	u, err := h.caller(req.Header())
	if err != nil {
		return nil, err
	}
	timeout, err := timeoutOf(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	config, defaults := req.Msg.GetProcess(), h.session.Defaults()
	return &process.Spec{
		Cmd: config.GetCmd(), Args: config.GetArgs(), Env: config.GetEnvs(), BaseEnv: defaults.Env,
		Cwd: config.GetCwd(), Workdir: defaults.Workdir, User: u, Tag: req.Msg.GetTag(),
		Stdin: req.Msg.Stdin == nil || *req.Msg.Stdin, Timeout: timeout,
	}, nil
}

// Connect is the service's Connect.
func (h *Handler) Connect(ctx context.Context, req *connect.Request[pb.ConnectRequest], stream *connect.ServerStream[pb.ConnectResponse]) error {
	p, err := h.find(req.Msg.GetProcess())
	if err != nil {
		return err
	}
	reader := p.Attach()
	defer reader.Close()
	if lost := reader.Forgotten(); lost > 0 {
		stream.ResponseHeader().Set(HeaderOutputLost, strconv.FormatInt(lost, 10))
	}
	f := follower{
		p: p, reader: reader, keepalive: keepalive(req.Header()), trailer: stream.ResponseTrailer(),
		send: func(e *pb.ProcessEvent) error { return stream.Send(&pb.ConnectResponse{Event: e}) },
	}
	return f.follow(ctx)
}

func keepalive(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Keepalive-Ping-Interval"))
	if err != nil || seconds < 1 || seconds > int(maxKeepalive/time.Second) {
		return defaultKeepalive
	}
	return time.Duration(seconds) * time.Second
}

// errAbandoned is wrapped by the end of a call whose caller has gone away.
var errAbandoned = errors.New("the caller went away")

// follower sends a process's events to one caller.
type follower struct {
	p         *process.Process
	reader    *process.Reader
	keepalive time.Duration
	trailer   http.Header
	send      func(*pb.ProcessEvent) error
}

// follow sends the start event, the output, keepalives and the end event.
func (f *follower) follow(ctx context.Context) error {
	start := &pb.ProcessEvent_Start{Start: &pb.ProcessEvent_StartEvent{Pid: uint32(f.p.PID())}}
	if err := f.event(&pb.ProcessEvent{Event: start}); err != nil {
		return err
	}
	timer := time.NewTimer(f.keepalive)
	defer timer.Stop()
	for {
		chunk, err := f.reader.Next()
		switch {
		case err == nil:
			err = f.event(data(chunk))
			timer.Reset(f.keepalive)
		case errors.Is(err, io.EOF):
			return f.end(ctx)
		case errors.Is(err, process.ErrEmpty):
			err = f.wait(ctx, timer)
		default:
			err = wireError(err)
		}
		if err != nil {
			return err
		}
	}
}

// wait waits until there may be output, sending keepalives meanwhile.
func (f *follower) wait(ctx context.Context, timer *time.Timer) error {
	select {
	case <-f.reader.Wake():
		return nil
	case <-timer.C:
		timer.Reset(f.keepalive)
		return f.event(&pb.ProcessEvent{Event: &pb.ProcessEvent_Keepalive{Keepalive: &pb.ProcessEvent_KeepAlive{}}})
	case <-ctx.Done():
		return connect.NewError(codeOf(ctx.Err()), fmt.Errorf("%w: %w", errAbandoned, ctx.Err()))
	}
}

func (f *follower) event(e *pb.ProcessEvent) error {
	if err := f.send(e); err != nil {
		return fmt.Errorf("%w: %w", errAbandoned, err)
	}
	return nil
}

func data(c process.Chunk) *pb.ProcessEvent {
	event := &pb.ProcessEvent_DataEvent{Output: &pb.ProcessEvent_DataEvent_Stdout{Stdout: c.Data}}
	if c.Stream == process.Stderr {
		event.Output = &pb.ProcessEvent_DataEvent_Stderr{Stderr: c.Data}
	}
	return &pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: event}}
}

// end reports how the process ended. A timeout is an error of the call, as the protocol has it.
func (f *follower) end(ctx context.Context) error {
	select {
	case <-f.p.Done(): // a moment after the end of the output
	case <-ctx.Done():
		return connect.NewError(codeOf(ctx.Err()), fmt.Errorf("%w: %w", errAbandoned, ctx.Err()))
	}
	exit := f.p.Exit()
	if exit.Signal != 0 {
		f.trailer.Set(HeaderExitSignal, strconv.Itoa(int(exit.Signal)))
	}
	if exit.TimedOut {
		return connect.NewError(connect.CodeDeadlineExceeded,
			fmt.Errorf("the process was killed when its time of %s had run out", f.p.Spec().Timeout))
	}
	return f.event(&pb.ProcessEvent{Event: &pb.ProcessEvent_End{End: endEvent(exit)}})
}

// endEvent describes an exit in the words of os.ProcessState, which clients of the protocol know.
func endEvent(exit process.Exit) *pb.ProcessEvent_EndEvent {
	status := fmt.Sprintf("exit status %d", exit.Code)
	if exit.Signal != 0 {
		status = "signal: " + exit.Signal.String()
		if exit.Core {
			status += " (core dumped)"
		}
	}
	event := &pb.ProcessEvent_EndEvent{ExitCode: int32(exit.Code), Exited: exit.Signal == 0, Status: status}
	if exit.Code != 0 {
		event.Error = &status
	}
	return event
}
