package envdclient

import (
	"context"
)

// WriteStdin feeds the process. It returns once its pipe has taken all of data, which is as late as the
// process likes; it ends earlier with ctx, and with a precondition error when the process has ended
// or its input is closed. Calls must not overlap.
func (e *Exec) WriteStdin(ctx context.Context, data []byte) error {
	ctx, cancel := e.during(ctx)
	defer cancel(nil)
	return e.client.SendInput(ctx, e.selector(), data)
}

// CloseStdin gives the process end of file. It can be repeated.
func (e *Exec) CloseStdin(ctx context.Context) error {
	ctx, cancel := e.during(ctx)
	defer cancel(nil)
	return e.client.CloseStdin(ctx, e.selector())
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
