package wrenn

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
)

// FileChange is something that happened in a watched directory.
type FileChange struct {
	Path string     `json:"path"` // relative to the directory
	Type ChangeType `json:"type"`
}

// ChangeType says what happened to a file. New ones may appear.
type ChangeType string

// The types of changes.
const (
	FileCreated ChangeType = "create"
	FileWritten ChangeType = "write"
	FileRemoved ChangeType = "remove"
	FileRenamed ChangeType = "rename"
	ModeChanged ChangeType = "chmod"
)

// Recursively watches directories below the one that is named too.
func Recursively() FileOption {
	return func(q url.Values) { q.Set("recursive", "true") }
}

// Watcher follows what happens in a directory. It is for one goroutine; Close may be called by another.
type Watcher struct{ *eventStream }

// WatchDirectory returns when nothing can be missed any more. The caller must call Close.
func (c *Client) WatchDirectory(ctx context.Context, id, path string, opts ...FileOption) (*Watcher, error) {
	query, err := fileQuery(path, opts)
	if err != nil {
		return nil, err
	}
	target, err := sandboxPath(id, "watch")
	if err != nil {
		return nil, err
	}
	events, err := c.events(ctx, request{method: http.MethodGet, path: withQuery(target, query)})
	if err != nil {
		return nil, err
	}
	first, err := events.read()
	switch {
	case err != nil:
	case first.name == "error":
		err = streamError(first.data)
	case first.name != "watching":
		err = fmt.Errorf("the stream of a watcher begins with %q", first.name)
	default:
		return &Watcher{events}, nil
	}
	events.Close()
	return nil, err
}

// Close ends the watching. It may be called again.
func (w *Watcher) Close() error { return w.eventStream.Close() }

// Changes goes through what happens, up to an error: Exhausted when changes came faster than they were read (look again,
// then watch again), io.ErrUnexpectedEOF when the connection ended, the context's, or that of Close.
func (w *Watcher) Changes() iter.Seq2[FileChange, error] {
	return func(yield func(FileChange, error) bool) {
		for {
			change, err := w.next()
			if !yield(change, err) || err != nil {
				return
			}
		}
	}
}

func (w *Watcher) next() (FileChange, error) {
	for {
		e, err := w.read()
		if err != nil {
			return FileChange{}, err
		}
		switch e.name {
		case "error":
			return FileChange{}, streamError(e.data)
		case "change":
			var change FileChange
			if err := json.Unmarshal(e.data, &change); err != nil {
				return FileChange{}, fmt.Errorf("decode event change: %w", err)
			}
			return change, nil
		}
	}
}
