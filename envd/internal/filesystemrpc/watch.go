package filesystemrpc

import (
	"context"
	"errors"

	"github.com/wrenn-sandbox/wrenn/envd/internal/caller"
	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
)

// WatchDir is the service's WatchDir. It ends with its caller, or with an error after which nothing more
// would come.
func (h *Handler) WatchDir(ctx context.Context, call *connect.Call, req *WatchRequest, send func(*WatchDirResponse) error) error {
	_, path, err := h.resolve(call, req.Path)
	if err != nil {
		return err
	}
	watch, err := h.files.Watch(path, options(req))
	if err != nil {
		return wireError(err)
	}
	defer func() { _ = watch.Close() }()
	response, keepalive := &WatchDirResponse{Start: &Empty{}}, caller.Keepalive(call.Header)
	for {
		if err := send(response); err != nil {
			return err
		}
		event, err := watch.Next(ctx, keepalive)
		switch {
		case err == nil:
			response = &WatchDirResponse{Filesystem: describeEvent(event)}
		case errors.Is(err, filesystem.ErrQuiet):
			response = &WatchDirResponse{Keepalive: &Empty{}}
		default:
			return wireError(err)
		}
	}
}

func options(req *WatchRequest) filesystem.WatchOptions {
	return filesystem.WatchOptions{
		Recursive: req.Recursive, IncludeEntry: req.IncludeEntry, AllowNetworkMounts: req.AllowNetworkMounts,
	}
}

func describeEvent(event filesystem.Event) *FilesystemEvent {
	e := &FilesystemEvent{Name: event.Name, Type: EventType(event.Type)}
	if event.Entry != nil {
		e.Entry = describe(event.Entry)
	}
	return e
}

// CreateWatcher is the service's CreateWatcher.
func (h *Handler) CreateWatcher(_ context.Context, call *connect.Call, req *WatchRequest) (*CreateWatcherResponse, error) {
	_, path, err := h.resolve(call, req.Path)
	if err != nil {
		return nil, err
	}
	id, err := h.files.CreateWatcher(path, options(req))
	if err != nil {
		return nil, wireError(err)
	}
	return &CreateWatcherResponse{WatcherID: id}, nil
}

// GetWatcherEvents is the service's GetWatcherEvents.
func (h *Handler) GetWatcherEvents(_ context.Context, _ *connect.Call, req *WatcherRequest) (*GetWatcherEventsResponse, error) {
	events, err := h.files.WatcherEvents(req.WatcherID)
	if err != nil {
		return nil, wireError(err)
	}
	response := &GetWatcherEventsResponse{Events: make([]*FilesystemEvent, len(events))}
	for i, event := range events {
		response.Events[i] = describeEvent(event)
	}
	return response, nil
}

// RemoveWatcher is the service's RemoveWatcher.
func (h *Handler) RemoveWatcher(_ context.Context, _ *connect.Call, req *WatcherRequest) (*Empty, error) {
	return &Empty{}, wireError(h.files.RemoveWatcher(req.WatcherID))
}
