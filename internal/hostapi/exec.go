package hostapi

import (
	"context"
	"errors"
	"io"
	"syscall"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

type execStream = grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]

// Exec implements HostAgentService.
func (s *Server) Exec(stream execStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return models.Errorf(models.Invalid, "the first request of an exec must be its start")
	}
	sb, err := parse(start.GetSandboxId())
	if err != nil {
		return err
	}
	guest, err := s.agent.Guest(sb)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	exec, err := guest.Exec(ctx, envdclient.Command{
		Cmd: start.GetCommand(), Args: start.GetArgs(), Cwd: start.GetCwd(), Env: start.GetEnv(),
		User: start.GetUser(), Timeout: start.GetTimeout().AsDuration(), Stdin: start.GetStdin(),
	})
	if err != nil {
		return err
	}
	defer exec.Close()
	// It ends when the call does: gRPC then ends its Recv.
	go func() {
		if err := feed(ctx, exec, stream, start.GetStdin()); err != nil {
			cancel(err) // kills the process
		}
	}()
	err = forward(exec, stream)
	if cause := context.Cause(ctx); cause != nil && stream.Context().Err() == nil && err != nil {
		return cause
	}
	return err
}

// feed passes input and signals on to the process until the caller closes its side.
func feed(ctx context.Context, exec *envdclient.Exec, stream execStream, stdin bool) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if stdin {
				return ignoreEnded(exec.CloseStdin(ctx))
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch in := req.GetInput().(type) {
		case *pb.ExecRequest_Stdin:
			err = exec.WriteStdin(ctx, in.Stdin)
		case *pb.ExecRequest_Signal:
			err = exec.Signal(ctx, syscall.Signal(in.Signal))
		default:
			return models.Errorf(models.Invalid, "an exec has one start")
		}
		if err := ignoreEnded(err); err != nil {
			return err
		}
	}
}

// ignoreEnded drops the error of talking to a process that has ended, or has closed its input: how
// it ended is what the caller is told.
func ignoreEnded(err error) error {
	switch models.CodeOf(err) {
	case models.NotFound, models.Precondition:
		return nil
	default:
		return err
	}
}

// forward sends the events of the process until its end.
func forward(exec *envdclient.Exec, stream execStream) error {
	for {
		event, err := exec.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(response(event)); err != nil {
			return err
		}
	}
}

func response(event envdclient.Event) *pb.ExecResponse {
	switch e := event.(type) {
	case envdclient.Started:
		return &pb.ExecResponse{Event: &pb.ExecResponse_Started{Started: &pb.ExecStarted{Pid: e.PID}}}
	case envdclient.Stdout:
		return &pb.ExecResponse{Event: &pb.ExecResponse_Stdout{Stdout: e}}
	case envdclient.Stderr:
		return &pb.ExecResponse{Event: &pb.ExecResponse_Stderr{Stderr: e}}
	case envdclient.Exited:
		return &pb.ExecResponse{Event: &pb.ExecResponse_Exited{Exited: &pb.ExecExited{
			ExitCode: int32(e.Code), Signal: int32(e.Signal), TimedOut: e.TimedOut,
		}}}
	default:
		return &pb.ExecResponse{}
	}
}
