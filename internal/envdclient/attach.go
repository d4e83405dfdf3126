package envdclient

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// FromNow as an offset is the end of the output that there has been.
const FromNow = -1

// PTY is a piece of a terminal's output of at most 1 MiB, cut anywhere.
type PTY []byte

// Gap says that there was output which this attachment does not get: it is not kept any more, or came
// faster than it was read.
type Gap struct{ Bytes uint64 }

func (PTY) event() {}
func (Gap) event() {}

// Attachment follows a process from an offset in its output on. It holds up neither the process nor anybody
// else. Next is for one goroutine.
type Attachment struct {
	client *Client
	pid    uint32
	offset uint64
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *watchdog
	stream reports
	err    error // the last thing that Next returned
}

// reports are the messages of a call that follows a process.
type reports interface {
	Receive() bool
	event() *pb.ProcessEvent
	Err() error
	Close() error
}

// reportsOf are those of Start or Connect.
type reportsOf[T any, M interface {
	*T
	GetEvent() *pb.ProcessEvent
}] struct {
	*connect.ServerStreamForClient[T]
}

func (r reportsOf[T, M]) event() *pb.ProcessEvent { return M(r.Msg()).GetEvent() }

// Attach follows a process that runs, or has ended a short while ago, from an offset in its output on, or
// FromNow. It ends with ctx. The caller calls Close, which leaves the process as it is.
func (c *Client) Attach(ctx context.Context, which Selector, offset int64) (*Attachment, error) {
	if offset < FromNow {
		return nil, models.Errorf(models.Invalid, "the offset must not be negative")
	}
	req := connect.NewRequest(&pb.ConnectRequest{Process: which.wire(), Offset: &offset})
	c.authorize(req.Header())
	req.Header().Set(headerKeepalive, keepaliveSeconds)
	return c.attachment(ctx, func(ctx context.Context) (reports, error) {
		stream, err := c.rpc.Connect(ctx, req)
		return reportsOf[pb.ConnectResponse, *pb.ConnectResponse]{stream}, err
	})
}

// Run starts a process and follows it. There are no gaps: as long as it is attached, the process waits until its output is
// read. It ends by itself, by a signal or by its timeout, not with ctx or Close.
func (c *Client) Run(ctx context.Context, spec Spec) (*Attachment, error) {
	req, err := c.specRequest(spec)
	if err != nil {
		return nil, err
	}
	return c.attachment(ctx, func(ctx context.Context) (reports, error) {
		stream, err := c.rpc.Start(ctx, req)
		return reportsOf[pb.StartResponse, *pb.StartResponse]{stream}, err
	})
}

func (c *Client) attachment(ctx context.Context, call func(context.Context) (reports, error)) (*Attachment, error) {
	a := &Attachment{client: c}
	a.ctx, a.cancel = c.detached(ctx)
	a.watch = newWatchdog(c.limits.answer, a.cancel)
	if err := a.open(call); err != nil {
		_ = a.Close() // err says more
		return nil, err
	}
	return a, nil
}

func (a *Attachment) open(call func(context.Context) (reports, error)) error {
	a.watch.arm()
	stream, err := call(a.ctx)
	if err != nil {
		return rpcError(a.ctx, err)
	}
	a.stream = stream
	if !stream.Receive() {
		return rpcError(a.ctx, streamError(stream.Err()))
	}
	start := stream.event().GetStart()
	if start.GetPid() == 0 {
		return transportError(a.ctx, errors.New("the first event is no start event"))
	}
	a.pid, a.offset = start.GetPid(), start.GetOffset()
	a.watch.rest()
	a.watch.limit = a.client.limits.silence
	return nil
}

// PID returns the process id in the guest.
func (a *Attachment) PID() uint32 { return a.pid }

// Offset returns where in the output the first event begins. Where that is beyond the offset asked for, a Gap follows
// that leads from there.
func (a *Attachment) Offset() uint64 { return a.offset }

// Next waits for the next Stdout, Stderr, PTY or Gap, at last Exited. After that it returns io.EOF. An error is
// the last thing it returns; the process may go on.
func (a *Attachment) Next() (Event, error) {
	for a.err == nil {
		event, err := a.receive()
		if _, last := event.(Exited); last {
			err = nil
			a.err = io.EOF
		} else {
			a.err = err
		}
		if event != nil && err == nil {
			return event, nil
		}
	}
	return nil, a.err
}

// receive reads one message; a keepalive gives no event.
func (a *Attachment) receive() (Event, error) {
	a.watch.arm()
	defer a.watch.rest()
	if !a.stream.Receive() {
		return nil, a.fail(streamError(a.stream.Err()))
	}
	switch event := a.stream.event().GetEvent().(type) {
	case *pb.ProcessEvent_Data:
		return output(event.Data), nil
	case *pb.ProcessEvent_Gap:
		return Gap{Bytes: event.Gap.GetBytes()}, nil
	case *pb.ProcessEvent_End:
		return exitOf(event.End), nil
	case *pb.ProcessEvent_Keepalive:
		return nil, nil
	}
	return nil, a.fail(errors.New("an event that says nothing"))
}

func (a *Attachment) fail(err error) error {
	failure := rpcError(a.ctx, err)
	if failure.Code == models.Unavailable && contextError(a.ctx) == nil {
		return models.Errorf(models.Unavailable, "the connection to the process broke; it may still run").WithCause(err)
	}
	return failure
}

// Close ends the attachment, not the process.
func (a *Attachment) Close() error {
	a.watch.stop()
	a.cancel(nil)
	if a.stream != nil {
		_ = a.stream.Close() // says only what Next has said
	}
	return nil
}
