package api

import (
	"context"
	"errors"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// errStopping is what is told of all that ends with this control plane and can be asked for again, here or at another one.
var errStopping = models.Errorf(models.Unavailable, "this control plane is stopping").WithHint("go on at another one, or here in a few seconds")

// End has those requests come to an end that would go on for as long as their clients like and that can be taken up elsewhere where they ended: the output of processes, watches,
// terminals. It is for the begin of this process' end; those to come end likewise.
func (s *Server) End() { s.end(errStopping) }

// untilEnd is the context of a request that ends with End.
func (s *Server) untilEnd(parent context.Context) (ctx context.Context, cancel func()) {
	ctx, with := context.WithCancelCause(parent)
	stop := context.AfterFunc(s.ending, func() { with(errStopping) })
	return ctx, func() {
		stop()
		with(nil)
	}
}

// told is the error that a client is told: of a request that has failed because this control plane ended it, just that.
func told(ctx context.Context, err error) error {
	if !errors.Is(context.Cause(ctx), errStopping) {
		return err
	}
	if code := models.CodeOf(err); code == models.Unavailable || code == models.Deadline || code == models.Internal {
		return errStopping.WithCause(err)
	}
	return err // it has another reason
}

// hangUpAt says on a WebSocket, when at ends, that this control plane stops, and ends it. A context of the WebSocket's own ends it without a word, so that cancel comes last.
func hangUpAt(at context.Context, conn *websocket.Conn, tell func(error) error, cancel func()) (stop func() bool) {
	return context.AfterFunc(at, func() {
		defer cancel()
		if errors.Is(context.Cause(at), errStopping) && tell(errStopping) == nil {
			_ = conn.Close(websocket.StatusServiceRestart, string(errStopping.Code))
		}
	})
}
