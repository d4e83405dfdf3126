package envdclient

import (
	"context"

	"connectrpc.com/connect"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// maxInput is how much input goes into one message; it is what a pipe holds (pipe(7)).
const maxInput = 64 << 10

// WriteStdin feeds the process. It returns once its pipe has taken all of data, which is as late as the
// process likes; it ends earlier with ctx, and with a precondition error when the process has ended
// or its input is closed. Calls must not overlap.
func (e *Exec) WriteStdin(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), maxInput)
		if err := e.writeOnce(ctx, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (e *Exec) writeOnce(ctx context.Context, data []byte) error {
	ctx, cancel := e.during(ctx)
	defer cancel(nil)
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: data}}
	req := connect.NewRequest(&pb.SendInputRequest{Process: e.selector(), Input: input})
	e.client.authorize(req.Header())
	if _, err := e.client.rpc.SendInput(ctx, req); err != nil {
		return ended(rpcError(ctx, err))
	}
	return nil
}

// CloseStdin gives the process end of file. It can be repeated.
func (e *Exec) CloseStdin(ctx context.Context) error {
	ctx, cancel := e.during(ctx)
	defer cancel(nil)
	watch := newWatchdog(e.client.limits.answer, cancel)
	watch.arm()
	defer watch.stop()
	req := connect.NewRequest(&pb.CloseStdinRequest{Process: e.selector()})
	e.client.authorize(req.Header())
	if _, err := e.client.rpc.CloseStdin(ctx, req); err != nil {
		return ended(rpcError(ctx, err))
	}
	return nil
}

// during returns a context that ends with ctx and with the process's stream.
func (e *Exec) during(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}
