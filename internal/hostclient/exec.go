package hostclient

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// chunk is how much of a file or of stdin one message carries. It is far below gRPC's limit of 4 MiB.
const chunk = 256 << 10

// ExecStart says what to run.
type ExecStart struct {
	Sandbox id.Sandbox
	Command string
	Args    []string
	Cwd     string
	Env     map[string]string
	User    string
	Timeout time.Duration // 0 for none
	Stdin   []byte        // nil: the process reads end of file at once
}

// Process is a program that runs in a guest. It is killed when its ctx ends.
type Process struct {
	PID    uint32
	stream grpc.BidiStreamingClient[pb.ExecRequest, pb.ExecResponse]
	fed    chan struct{} // closed when the feeding of stdin has ended
}

// Output is one event of a process: output, or its end with Exit set.
type Output struct {
	Stdout, Stderr []byte
	Exit           *Exit
}

// Exit says how a process ended.
type Exit struct {
	Code     int // meaningless when Signal is not 0
	Signal   int // 0 for none
	TimedOut bool
}

// Exec starts a program and returns once it runs. The caller must either call Next until
// it fails or returns an Exit, or end ctx; then Wait.
func (c *Client) Exec(ctx context.Context, s ExecStart) (*Process, error) {
	stream, err := c.api.Exec(ctx)
	if err != nil {
		return nil, grpcerr.Decode(err)
	}
	start := &pb.ExecStart{
		SandboxId: string(s.Sandbox), Command: s.Command, Args: s.Args, Cwd: s.Cwd, Env: s.Env, User: s.User, Stdin: s.Stdin != nil,
	}
	if s.Timeout > 0 {
		start.Timeout = durationpb.New(s.Timeout)
	}
	if err := stream.Send(&pb.ExecRequest{Input: &pb.ExecRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, grpcerr.Decode(err)
	}
	p := &Process{stream: stream, fed: make(chan struct{})}
	first, err := p.recv() // io.EOF of Send: the reason is here
	if err != nil {
		return nil, err
	}
	started := first.GetStarted()
	if started == nil {
		return nil, models.Errorf(models.Internal, "internal error").WithCause(errors.New("exec began without a started message"))
	}
	p.PID = started.GetPid()
	go p.feed(s.Stdin)
	return p, nil
}

// feed sends stdin and its end. It ends when it is done or when the stream has ended.
func (p *Process) feed(stdin []byte) {
	defer close(p.fed)
	for len(stdin) > 0 {
		n := min(len(stdin), chunk)
		if p.stream.Send(&pb.ExecRequest{Input: &pb.ExecRequest_Stdin{Stdin: stdin[:n]}}) != nil {
			return // the process does not read it, or Next says why the stream ended
		}
		stdin = stdin[n:]
	}
	_ = p.stream.CloseSend() // never fails
}

// Next waits for the next event. After an event with Exit set there is none.
func (p *Process) Next() (Output, error) {
	m, err := p.recv()
	if err != nil {
		return Output{}, err
	}
	if e := m.GetExited(); e != nil {
		return Output{Exit: &Exit{Code: int(e.GetExitCode()), Signal: int(e.GetSignal()), TimedOut: e.GetTimedOut()}}, nil
	}
	return Output{Stdout: m.GetStdout(), Stderr: m.GetStderr()}, nil
}

// Wait returns when nothing of the call is left. The ctx of Exec must have ended, or Next failed.
func (p *Process) Wait() { <-p.fed }

func (p *Process) recv() (*pb.ExecResponse, error) {
	m, err := p.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, models.Errorf(models.Unavailable, "the connection to the program was lost").WithCause(err)
	}
	return m, grpcerr.Decode(err)
}
