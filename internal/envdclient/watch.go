package envdclient

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem"
)

// ChangeType is what happened to a file.
type ChangeType string

// The types of changes.
const (
	Created  ChangeType = "create"
	Written  ChangeType = "write"
	Removed  ChangeType = "remove"
	Renamed  ChangeType = "rename" // away from this name; the new one, if it is watched, is created
	Chmodded ChangeType = "chmod"
)

var changeTypes = map[pb.EventType]ChangeType{
	pb.EventType_EVENT_TYPE_CREATE: Created, pb.EventType_EVENT_TYPE_WRITE: Written, pb.EventType_EVENT_TYPE_REMOVE: Removed,
	pb.EventType_EVENT_TYPE_RENAME: Renamed, pb.EventType_EVENT_TYPE_CHMOD: Chmodded,
}

// Change is what happened in a watched directory.
type Change struct {
	Name string // relative to the directory
	Type ChangeType
}

// Watch reports on what happens in a directory. Next is for one goroutine.
type Watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *watchdog
	stream *connect.ServerStreamForClient[pb.WatchDirResponse]
}

// Watch returns once nothing that happens in the directory can be missed any more. It ends with ctx; the caller
// calls Close.
func (c *Client) Watch(ctx context.Context, path, user string, recursive bool) (*Watch, error) {
	w := &Watch{}
	w.ctx, w.cancel = c.bound(ctx)
	w.watch = newWatchdog(c.limits.answer, w.cancel)
	req := connect.NewRequest(&pb.WatchDirRequest{Path: path, Recursive: recursive})
	c.authorize(req.Header())
	actAs(req.Header(), user)
	req.Header().Set(headerKeepalive, keepaliveSeconds)
	if err := w.open(c, req); err != nil {
		_ = w.Close()
		return nil, err
	}
	w.watch.limit = c.limits.silence
	return w, nil
}

func (w *Watch) open(c *Client, req *connect.Request[pb.WatchDirRequest]) error {
	w.watch.arm()
	defer w.watch.rest()
	stream, err := c.files.WatchDir(w.ctx, req)
	if err != nil {
		return rpcError(w.ctx, err)
	}
	w.stream = stream
	if !stream.Receive() {
		return rpcError(w.ctx, streamError(stream.Err()))
	}
	if stream.Msg().GetStart() == nil {
		return transportError(w.ctx, errors.New("the first event is no start event"))
	}
	return nil
}

// Next waits for the next change. It ends with an error only: Exhausted when changes came faster than they
// were read, so that some are lost.
func (w *Watch) Next() (Change, error) {
	w.watch.arm()
	defer w.watch.rest()
	for w.stream.Receive() {
		w.watch.arm()
		switch event := w.stream.Msg().GetEvent().(type) {
		case *pb.WatchDirResponse_Filesystem:
			if kind, known := changeTypes[event.Filesystem.GetType()]; known {
				return Change{Name: event.Filesystem.GetName(), Type: kind}, nil
			}
		case *pb.WatchDirResponse_Keepalive:
			continue
		}
		return Change{}, transportError(w.ctx, errors.New("an event that says nothing"))
	}
	err := rpcError(w.ctx, streamError(w.stream.Err()))
	if err.Code == models.Unavailable && contextError(w.ctx) == nil {
		err = models.Errorf(models.Unavailable, "the connection to the sandbox's guest broke").WithCause(err)
	}
	return Change{}, err
}

// Close ends the watch.
func (w *Watch) Close() error {
	w.watch.stop()
	w.cancel(nil)
	if w.stream != nil {
		_ = w.stream.Close() // says only what Next has said
	}
	return nil
}
