package wrenn

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Entry describes what is at a path of the guest.
type Entry struct {
	Name          string    `json:"name"`
	Path          string    `json:"path"`
	Type          EntryType `json:"type"` // of a symbolic link, what it leads to
	Size          int64     `json:"size"` // in bytes
	Mode          string    `json:"mode"` // octal, as "0644"
	Owner         string    `json:"owner"`
	Group         string    `json:"group"`
	ModifiedAt    time.Time `json:"modified_at"`
	SymlinkTarget string    `json:"symlink_target,omitempty"`
}

// EntryType says what an Entry is. New ones may appear.
type EntryType string

// The types of entries.
const (
	RegularFile EntryType = "file"
	Directory   EntryType = "directory"
	BrokenLink  EntryType = "symlink" // one that leads to nothing
	OtherFile   EntryType = "other"   // a device, pipe or socket
)

// StatFile describes what is at a path.
func (c *Client) StatFile(ctx context.Context, id, path string, opts ...FileOption) (*Entry, error) {
	query, err := fileQuery(path, opts)
	if err != nil {
		return nil, err
	}
	query.Set("info", "true")
	target, err := filesPath(id, query)
	if err != nil {
		return nil, err
	}
	var e Entry
	if err := c.call(ctx, http.MethodGet, target, nil, &e); err != nil {
		return nil, err
	}
	return &e, nil
}

// ListDirectory returns what is in a directory, and below it down to depth levels (1 to 32). The listing must fit into
// 32 MiB of JSON, some 100,000 entries.
func (c *Client) ListDirectory(ctx context.Context, id, path string, depth int, opts ...FileOption) ([]Entry, error) {
	query, err := fileQuery(path, opts)
	if err != nil {
		return nil, err
	}
	query.Set("depth", strconv.Itoa(depth))
	target, err := filesPath(id, query)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx, c.opts.Timeout)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodGet, path: target, accept: "application/json"})
	if err != nil {
		return nil, err
	}
	if contentType(resp) != "application/json" { // drain would read of a file
		resp.Body.Close()
		return nil, invalid("%s is no directory", path)
	}
	defer drain(resp)
	var list struct{ Items []Entry }
	err = decode(resp, &list)
	return list.Items, err
}

// MakeDirectory makes a directory and its missing parents. One that is there already is no error.
func (c *Client) MakeDirectory(ctx context.Context, id, path string, opts ...FileOption) (*Entry, error) {
	return c.changeFile(ctx, id, "mkdir", path, opts, map[string]any{"path": path})
}

// MoveFile renames a file or a directory and returns what is at to then. A file there is replaced; missing directories are made.
func (c *Client) MoveFile(ctx context.Context, id, from, to string, opts ...FileOption) (*Entry, error) {
	if _, err := fileQuery(to, nil); err != nil {
		return nil, err
	}
	return c.changeFile(ctx, id, "move", from, opts, map[string]any{"from": from, "to": to})
}

// ChangeMode changes permissions, given as a number such as 0o755; recursive, those of all that is below a directory
// too. Symbolic links are not followed.
func (c *Client) ChangeMode(ctx context.Context, id, path string, mode uint32, recursive bool, opts ...FileOption) (*Entry, error) {
	body := map[string]any{"path": path, "mode": fmt.Sprintf("%04o", mode)}
	if recursive {
		body["recursive"] = true
	}
	return c.changeFile(ctx, id, "chmod", path, opts, body)
}

func (c *Client) changeFile(ctx context.Context, id, verb, path string, opts []FileOption, body map[string]any) (*Entry, error) {
	query, err := fileQuery(path, opts)
	if err != nil {
		return nil, err
	}
	if user := query.Get("user"); user != "" {
		body["user"] = user
	}
	target, err := sandboxPath(id, "files", verb)
	if err != nil {
		return nil, err
	}
	var e Entry
	if err := c.call(ctx, http.MethodPost, target, body, &e); err != nil {
		return nil, err
	}
	return &e, nil
}

// RemoveFile removes a file, or a directory with all that is in it.
func (c *Client) RemoveFile(ctx context.Context, id, path string, opts ...FileOption) error {
	target, err := filePath(id, path, opts)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, target, nil, nil)
}
