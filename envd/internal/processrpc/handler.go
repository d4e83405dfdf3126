// Package processrpc serves package process over Connect, as the service process.Process
// of proto/envd/process/process.proto.
//
// Beside what that protocol says, it understands and sends a few headers of our own, which
// other clients do not notice:
//
//   - request header Wrenn-Kill-On-Disconnect: 1 on Start: the process is killed, with all that
//     it started, when the caller goes away before it has ended;
//   - trailer Wrenn-Exit-Signal: the number of the signal that ended the process;
//   - trailer or header Wrenn-Reason: unknown_user, where a status alone does not tell;
//   - header Wrenn-Output-Lost on Connect: how many bytes of output nobody was there to read.
package processrpc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// The headers of our own.
const (
	HeaderKillOnDisconnect = "Wrenn-Kill-On-Disconnect"
	HeaderExitSignal       = "Wrenn-Exit-Signal"
	HeaderOutputLost       = "Wrenn-Output-Lost"
)

// maxMessage bounds one request message, and so one piece of input. It is gRPC's default too.
const maxMessage = 4 << 20

// Handler is the service.
type Handler struct {
	processes *process.Service
	session   *session.Session
	users     user.Database
}

// New returns the path that the service is to be mounted at, and its handler.
func New(processes *process.Service, s *session.Session, users user.Database) (string, http.Handler) {
	h := &Handler{processes: processes, session: s, users: users}
	path, handler := processconnect.NewProcessHandler(h,
		connect.WithReadMaxBytes(maxMessage),
		connect.WithCompression("gzip", nil, nil)) // costs 1 MiB a stream and saves nothing on a local channel
	return path, ownTimeout(handler)
}

// List is the service's List.
func (h *Handler) List(context.Context, *connect.Request[pb.ListRequest]) (*connect.Response[pb.ListResponse], error) {
	list := &pb.ListResponse{}
	for _, p := range h.processes.List() {
		list.Processes = append(list.Processes, describe(p))
	}
	return connect.NewResponse(list), nil
}

func describe(p *process.Process) *pb.ProcessInfo {
	spec := p.Spec()
	info := &pb.ProcessInfo{
		Pid:    uint32(p.PID()),
		Config: &pb.ProcessConfig{Cmd: spec.Cmd, Args: spec.Args, Envs: spec.Env},
	}
	if spec.Cwd != "" {
		info.Config.Cwd = &spec.Cwd
	}
	if spec.Tag != "" {
		info.Tag = &spec.Tag
	}
	return info
}

// find returns the process that a selector means.
func (h *Handler) find(selector *pb.ProcessSelector) (*process.Process, error) {
	var p *process.Process
	var err error
	switch by := selector.GetSelector().(type) {
	case *pb.ProcessSelector_Pid:
		p, err = h.processes.ByPID(int(by.Pid))
	case *pb.ProcessSelector_Tag:
		p, err = h.processes.ByTag(by.Tag)
	default:
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no process was selected"))
	}
	return p, wireError(err)
}

// caller returns the user that a request is made as: that of its Basic authorization,
// whose password means nothing, or else the default one.
func (h *Handler) caller(header http.Header) (*user.User, error) {
	name, err := basicUser(header.Get("Authorization"))
	if err != nil {
		return nil, connect.NewError(connect.CodeUnauthenticated, err)
	}
	if name == "" {
		name = h.session.Defaults().User
	}
	u, err := h.users.Lookup(name)
	if errors.Is(err, user.ErrUnknown) {
		unknown := connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("invalid username: '%s'", name))
		unknown.Meta().Set(apierror.HeaderReason, apierror.ReasonUnknownUser)
		return nil, unknown
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return u, nil
}

// basicUser returns the user name of a Basic authorization (RFC 7617), empty for none.
func basicUser(authorization string) (string, error) {
	scheme, credentials, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", nil
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credentials))
	if err != nil {
		return "", errors.New("the Authorization header is not valid base64")
	}
	name, _, _ := strings.Cut(string(plain), ":")
	return name, nil
}

// wireError translates an error of package process; nil stays nil.
func wireError(err error) error {
	if err == nil {
		return nil
	}
	var coded *process.Error
	if !errors.As(err, &coded) {
		return connect.NewError(codeOf(err), err)
	}
	switch coded.Kind {
	case process.NotFound:
		return connect.NewError(connect.CodeNotFound, coded)
	case process.Ended:
		return connect.NewError(connect.CodeFailedPrecondition, coded)
	case process.Exhausted:
		return connect.NewError(connect.CodeResourceExhausted, coded)
	case process.Unavailable:
		return connect.NewError(connect.CodeUnavailable, coded)
	default:
		return connect.NewError(connect.CodeInvalidArgument, coded)
	}
}

func codeOf(err error) connect.Code {
	switch {
	case errors.Is(err, os.ErrProcessDone):
		return connect.CodeNotFound
	case errors.Is(err, process.ErrBehind):
		return connect.CodeResourceExhausted
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeInternal
}

func unimplemented(what string) error {
	return connect.NewError(connect.CodeUnimplemented, fmt.Errorf("%s: this version of envd has no terminals yet", what))
}
