package filesystemrpc

import (
	"context"
	"errors"

	"github.com/wrenn-sandbox/wrenn/envd/internal/caller"
	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Handler is the service.
type Handler struct {
	files   *filesystem.Service
	session *session.Session
	users   user.Database
}

// New returns the service of files.
func New(files *filesystem.Service, s *session.Session, users user.Database) *Handler {
	return &Handler{files: files, session: s, users: users}
}

// Mount adds the service's methods to mux.
func (h *Handler) Mount(mux *http.ServeMux) {
	for name, method := range map[string]*connect.Handler{
		"Stat": connect.Unary(h.Stat), "MakeDir": connect.Unary(h.MakeDir), "Move": connect.Unary(h.Move),
		"ListDir": connect.Unary(h.ListDir), "Remove": connect.Unary(h.Remove), "WatchDir": connect.ServerStream(h.WatchDir),
		"CreateWatcher": connect.Unary(h.CreateWatcher), "GetWatcherEvents": connect.Unary(h.GetWatcherEvents),
		"RemoveWatcher": connect.Unary(h.RemoveWatcher),
	} {
		mux.Handle("/filesystem.Filesystem/"+name, method)
	}
}

// Stat is the service's Stat.
func (h *Handler) Stat(_ context.Context, call *connect.Call, req *PathRequest) (*EntryResponse, error) {
	_, path, err := h.resolve(call, req.Path)
	if err != nil {
		return nil, err
	}
	return answer(h.files.Stat(path))
}

// MakeDir is the service's MakeDir.
func (h *Handler) MakeDir(_ context.Context, call *connect.Call, req *PathRequest) (*EntryResponse, error) {
	u, path, err := h.resolve(call, req.Path)
	if err != nil {
		return nil, err
	}
	return answer(h.files.MakeDir(path, u))
}

// Move is the service's Move.
func (h *Handler) Move(_ context.Context, call *connect.Call, req *MoveRequest) (*EntryResponse, error) {
	u, source, err := h.resolve(call, req.Source)
	if err != nil {
		return nil, err
	}
	_, destination, err := h.resolve(call, req.Destination)
	if err != nil {
		return nil, err
	}
	return answer(h.files.Move(source, destination, u))
}

// ListDir is the service's ListDir.
func (h *Handler) ListDir(ctx context.Context, call *connect.Call, req *ListDirRequest) (*ListDirResponse, error) {
	_, path, err := h.resolve(call, req.Path)
	if err != nil {
		return nil, err
	}
	entries, err := h.files.List(ctx, path, req.Depth)
	if err != nil {
		return nil, wireError(err)
	}
	response := &ListDirResponse{Entries: make([]*EntryInfo, len(entries))}
	for i, e := range entries {
		response.Entries[i] = describe(e)
	}
	return response, nil
}

// Remove is the service's Remove.
func (h *Handler) Remove(_ context.Context, call *connect.Call, req *PathRequest) (*Empty, error) {
	_, path, err := h.resolve(call, req.Path)
	if err != nil {
		return nil, err
	}
	return &Empty{}, wireError(h.files.Remove(path))
}

// resolve returns the user that a call is made as, and the path that text means for it.
func (h *Handler) resolve(call *connect.Call, text string) (*user.User, string, error) {
	defaults := h.session.Defaults()
	u, err := caller.User(call.Header, h.users, defaults.User)
	if err != nil {
		return nil, "", err
	}
	path, err := filesystem.Resolve(text, u, defaults.Workdir)
	return u, path, wireError(err)
}

func answer(e *filesystem.Entry, err error) (*EntryResponse, error) {
	if err != nil {
		return nil, wireError(err)
	}
	return &EntryResponse{Entry: describe(e)}, nil
}

func describe(e *filesystem.Entry) *EntryInfo {
	return &EntryInfo{
		Name: e.Name, Type: FileType(e.Type), Path: e.Path, Size: e.Size, Mode: e.Mode, Permissions: e.Permissions,
		Owner: e.Owner, Group: e.Group, ModifiedTime: &e.ModifiedTime, SymlinkTarget: e.SymlinkTarget, Metadata: e.Metadata,
		IsSymlink: e.SymlinkTarget != nil,
	}
}

// codes are those of package filesystem's kinds of errors.
var codes = map[filesystem.Kind]connect.Code{
	filesystem.Internal: connect.Internal, filesystem.Invalid: connect.InvalidArgument, filesystem.NotFound: connect.NotFound,
	filesystem.Exists: connect.AlreadyExists, filesystem.Precondition: connect.FailedPrecondition,
	filesystem.Denied: connect.PermissionDenied, filesystem.Exhausted: connect.ResourceExhausted,
}

// wireError translates an error of package filesystem; nil and others stay what they are.
func wireError(err error) error {
	var coded *filesystem.Error
	if !errors.As(err, &coded) {
		return err
	}
	return &connect.Error{Code: codes[coded.Kind], Message: coded.Text}
}
