package envdclient

import (
	"context"
	"math"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// maxInput is how much input goes into one message, which envd writes whole before another's: half of what it takes.
const maxInput = 2 << 20

// Spec says what to start in the background.
type Spec struct {
	Command
	Tag string // a name by which it can be selected; empty for none
	PTY *Size  // run it on a terminal of this size; it has input then, whatever Stdin says
}

// Size is that of a terminal.
type Size struct{ Cols, Rows int }

func (s *Size) wire() *pb.PTY {
	return &pb.PTY{Size: &pb.PTY_Size{Cols: uint32(s.Cols), Rows: uint32(s.Rows)}}
}

func (s *Size) check() *models.Error {
	if s.Cols < 1 || s.Cols > math.MaxUint16 || s.Rows < 1 || s.Rows > math.MaxUint16 { // struct winsize of tty_ioctl(4)
		return models.Errorf(models.Invalid, "a terminal has 1 to %d columns and rows", math.MaxUint16)
	}
	return nil
}

// Selector names a process, by its pid or, where that is 0, by its tag.
type Selector struct {
	PID uint32
	Tag string
}

func (s Selector) wire() *pb.ProcessSelector {
	if s.PID != 0 {
		return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Pid{Pid: s.PID}}
	}
	return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: s.Tag}}
}

// Process describes a process that was started through envd.
type Process struct {
	PID         uint32
	Tag         string
	Cmd         string
	Args        []string
	Cwd         string
	User        string
	PTY         bool
	StartedAt   time.Time
	OutputBytes uint64
	Exit        *Exited // nil while it runs
}

// Start starts a process and leaves it running. It ends by itself, by a signal or by its timeout, not with ctx.
func (c *Client) Start(ctx context.Context, spec Spec) (Process, error) {
	a, err := c.Run(ctx, spec)
	if err != nil {
		return Process{}, err
	}
	_ = a.Close() // it never fails
	return c.Process(ctx, Selector{PID: a.PID()})
}

func (c *Client) specRequest(spec Spec) (*connect.Request[pb.StartRequest], error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	req := c.startRequest(spec.Command)
	if spec.Tag != "" {
		req.Msg.Tag = &spec.Tag
	}
	if spec.PTY != nil {
		if err := spec.PTY.check(); err != nil {
			return nil, err
		}
		req.Msg.Pty = spec.PTY.wire()
	}
	return req, nil
}

// Processes lists what was started through envd and runs, and what has ended a short while ago.
func (c *Client) Processes(ctx context.Context) ([]Process, error) {
	answer, err := unary(ctx, c, c.limits.answer, "", c.lists.List, &pb.ListRequest{})
	if err != nil {
		return nil, err
	}
	all := make([]Process, len(answer.GetProcesses()))
	for i, p := range answer.GetProcesses() {
		all[i] = processOf(p)
	}
	return all, nil
}

func processOf(p *pb.ProcessInfo) Process {
	sec, frac := math.Modf(p.GetStartedAt())
	out := Process{
		PID: p.GetPid(), Tag: p.GetTag(), Cmd: p.GetConfig().GetCmd(), Args: p.GetConfig().GetArgs(), Cwd: p.GetConfig().GetCwd(),
		User: p.GetUser(), PTY: p.GetPty(), StartedAt: time.Unix(int64(sec), int64(frac*1e9)), OutputBytes: p.GetOutputBytes(),
	}
	if end := p.GetEnd(); end != nil {
		exited := exitOf(end)
		out.Exit = &exited
	}
	return out
}

// Process describes one process: of those that fit the one that runs, or else the one that was started last.
func (c *Client) Process(ctx context.Context, which Selector) (Process, error) {
	all, err := c.Processes(ctx)
	if err != nil {
		return Process{}, err
	}
	var best *Process
	for i, p := range all {
		if which.PID != 0 && p.PID != which.PID || which.PID == 0 && p.Tag != which.Tag {
			continue
		}
		if best == nil || p.Exit == nil || best.Exit != nil && p.StartedAt.After(best.StartedAt) {
			best = &all[i]
		}
	}
	if best == nil {
		return Process{}, models.Errorf(models.NotFound, "there is no such process in the sandbox")
	}
	return *best, nil
}

// SendInput feeds a process's standard input, in order. It returns once the pipe has taken all of data, which is as
// late as the process likes; it ends earlier with ctx. It is Precondition when
// the process has ended or its input is closed, and NotFound when there is none, or has been none for a while.
func (c *Client) SendInput(ctx context.Context, which Selector, data []byte) error {
	return c.feed(ctx, which, data, func(piece []byte) *pb.ProcessInput {
		return &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: piece}}
	})
}

// SendTerminal is SendInput for a process on a terminal.
func (c *Client) SendTerminal(ctx context.Context, which Selector, data []byte) error {
	return c.feed(ctx, which, data, func(piece []byte) *pb.ProcessInput {
		return &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: piece}}
	})
}

func (c *Client) feed(ctx context.Context, which Selector, data []byte, input func([]byte) *pb.ProcessInput) error {
	for len(data) > 0 {
		n := min(len(data), maxInput)
		req := &pb.SendInputRequest{Process: which.wire(), Input: input(data[:n])}
		if _, err := unary(ctx, c, 0, "", c.rpc.SendInput, req); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// CloseStdin gives a process end of file. It can be repeated.
func (c *Client) CloseStdin(ctx context.Context, which Selector) error {
	_, err := unary(ctx, c, c.limits.answer, "", c.rpc.CloseStdin, &pb.CloseStdinRequest{Process: which.wire()})
	return err
}

// Signal sends sig to a process's group; SIGKILL reaches all that it started.
func (c *Client) Signal(ctx context.Context, which Selector, sig syscall.Signal) error {
	req := &pb.SendSignalRequest{Process: which.wire(), Signal: pb.Signal(sig)}
	_, err := unary(ctx, c, c.limits.answer, "", c.rpc.SendSignal, req)
	return err
}

// Resize tells a process the new size of its terminal.
func (c *Client) Resize(ctx context.Context, which Selector, size Size) error {
	if err := size.check(); err != nil {
		return err
	}
	_, err := unary(ctx, c, c.limits.answer, "", c.rpc.Update, &pb.UpdateRequest{Process: which.wire(), Pty: size.wire()})
	return err
}

// unary makes a call with one answer, as user, and gives the guest a time for it; 0 is as long as ctx lasts.
func unary[Req, Res any](
	ctx context.Context, c *Client, limit time.Duration, user string,
	call func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), message *Req,
) (*Res, error) {
	ctx, cancel := c.detached(ctx)
	defer cancel(nil)
	if limit > 0 {
		watch := newWatchdog(limit, cancel)
		watch.arm()
		defer watch.stop()
	}
	req := connect.NewRequest(message)
	c.authorize(req.Header())
	actAs(req.Header(), user)
	resp, err := call(ctx, req)
	if err != nil {
		return nil, rpcError(ctx, err)
	}
	return resp.Msg, nil
}
