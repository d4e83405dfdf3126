// Package processrpc serves package process over Connect, as the service process.Process
// of proto/envd/process/process.proto.
//
// Beside what that says, a few headers are understood and sent:
//
//   - request header Wrenn-Extensions: 1 asks for the fields and events that are our own;
//   - request header Wrenn-Kill-On-Disconnect: 1 on Start: the process is killed, with all that
//     it started, when the caller goes away before it has ended;
//   - trailer or header Wrenn-Reason: unknown_user, where a status alone does not tell.
package processrpc

import (
	"context"
	"errors"
	"os"

	"github.com/wrenn-sandbox/wrenn/envd/internal/caller"
	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// The headers of our own.
const (
	HeaderExtensions       = "Wrenn-Extensions"
	HeaderKillOnDisconnect = "Wrenn-Kill-On-Disconnect"
)

// Handler is the service.
type Handler struct {
	processes *process.Service
	session   *session.Session
	users     user.Database
}

// New returns the service.
func New(processes *process.Service, s *session.Session, users user.Database) *Handler {
	return &Handler{processes: processes, session: s, users: users}
}

// Mount adds the service's methods to a mux.
func (h *Handler) Mount(mux *http.ServeMux) {
	for name, method := range map[string]*connect.Handler{
		"List": connect.Unary(h.list), "Connect": connect.ServerStream(h.connect), "Start": connect.ServerStream(h.start).OwnTimeout(),
		"Update": connect.Unary(h.update), "StreamInput": connect.ClientStream(h.streamInput), "SendInput": connect.Unary(h.sendInput),
		"SendSignal": connect.Unary(h.sendSignal), "CloseStdin": connect.Unary(h.closeStdin),
	} {
		mux.Handle("/process.Process/"+name, method)
	}
}

// extended reports whether the caller wants to know what is not E2B's.
func extended(call *connect.Call) bool { return call.Header.Get(HeaderExtensions) == "1" }

// running returns the process that a selector means. Of one that has ended a while ago at most our own callers are told
// that it has; for those of E2B's protocol there is no such process.
func (h *Handler) running(call *connect.Call, selector *ProcessSelector) (*process.Process, error) {
	p, err := h.find(selector, false)
	if err != nil && extended(call) {
		if _, known := h.find(selector, true); known == nil {
			return nil, errEnded
		}
	}
	return p, err
}

var errEnded = connect.Errorf(connect.FailedPrecondition, "the process has ended")

// find returns the process that a selector means, with ended also one that has ended.
func (h *Handler) find(selector *ProcessSelector, ended bool) (p *process.Process, err error) {
	switch {
	case selector != nil && selector.PID != nil:
		p, err = h.processes.ByPID(int(*selector.PID), ended)
	case selector != nil && selector.Tag != nil:
		p, err = h.processes.ByTag(*selector.Tag, ended)
	default:
		return nil, connect.Errorf(connect.InvalidArgument, "no process was selected")
	}
	return p, wireError(err)
}

// caller returns the user that a request is made as.
func (h *Handler) caller(header http.Header) (*user.User, error) {
	return caller.User(header, h.users, h.session.Defaults().User)
}

// wireError translates an error of package process; nil stays nil.
func wireError(err error) error {
	if err == nil {
		return nil
	}
	return connect.Errorf(codeOf(err), "%v", err)
}

func codeOf(err error) connect.Code {
	var coded *process.Error
	switch {
	case errors.As(err, &coded):
		return kindCode(coded.Kind)
	case errors.Is(err, os.ErrProcessDone):
		return connect.NotFound
	case errors.Is(err, process.ErrBehind):
		return connect.ResourceExhausted
	case errors.Is(err, context.Canceled):
		return connect.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.DeadlineExceeded
	}
	return connect.Internal
}

func kindCode(kind process.Kind) connect.Code {
	switch kind {
	case process.NotFound:
		return connect.NotFound
	case process.Ended:
		return connect.FailedPrecondition
	case process.Exhausted:
		return connect.ResourceExhausted
	case process.OutOfRange:
		return connect.OutOfRange
	case process.Unavailable:
		return connect.Unavailable
	default:
		return connect.InvalidArgument
	}
}
