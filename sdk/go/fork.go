package wrenn

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// ForkRequest says what to make of a sandbox. The zero value means one child like its parent.
type ForkRequest struct {
	Count    int               `json:"count,omitempty"`   // 1 to 16
	Metadata map[string]string `json:"metadata,omitzero"` // of each child; nil for that of the parent
	Wait     time.Duration     `json:"-"`                 // for room in the account's pool, as of CreateSandboxRequest
}

// ForkSandbox makes running children of a running or paused sandbox, with the memory and the disk that it has now, and returns when all of them run: all are made, or none. A parent that
// runs stands still for an instant and goes on. Repeated, it is carried out once. When ctx ends before the answer, the fork goes on: look for the children with ListSandboxes.
func (c *Client) ForkSandbox(ctx context.Context, id string, req ForkRequest) ([]Sandbox, error) {
	if err := encodable("metadata", func(yield func(string) bool) { entries(req.Metadata, yield) }); err != nil {
		return nil, err
	}
	path, err := sandboxPath(id, "fork")
	if err != nil {
		return nil, err
	}
	var made struct {
		Items []Sandbox `json:"items"`
	}
	if err := c.callWithin(ctx, req.Wait, path, req, &made); err != nil {
		return nil, err
	}
	return made.Items, nil
}

// SnapshotState is where a snapshot is in its life. New states may appear.
type SnapshotState string

// The states of a snapshot.
const (
	SnapshotCreating SnapshotState = "creating"
	SnapshotReady    SnapshotState = "ready" // sandboxes can be created from it
	SnapshotDeleting SnapshotState = "deleting"
	SnapshotFailed   SnapshotState = "error" // it is damaged, or its host has lost it
)

// Snapshot is what a sandbox was at one instant, kept for others to be created from it (CreateSandboxRequest.Snapshot).
type Snapshot struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	State       SnapshotState `json:"state"`
	StateReason string        `json:"state_reason,omitempty"` // why it is in state error
	SandboxID   string        `json:"sandbox_id"`             // of which it is; that may be stopped
	ParentID    string        `json:"parent_id,omitempty"`    // the snapshot before it, which may have been deleted
	Template    string        `json:"template"`
	VCPUs       int           `json:"vcpus"`
	MemoryMiB   int           `json:"memory_mib"`
	DiskMiB     int           `json:"disk_mib"`
	Network     NetworkPolicy `json:"network"` // of its sandbox then
	HostID      string        `json:"host_id"`
	Bytes       int64         `json:"bytes,omitempty"` // that it takes of its host's disk at most
	CreatedAt   time.Time     `json:"created_at"`
}

// CreateSnapshot keeps what a running or paused sandbox is now and returns when that is on its host's disk. name is the caller's own. Repeated, it is carried out once.
func (c *Client) CreateSnapshot(ctx context.Context, sandbox, name string) (*Snapshot, error) {
	if err := encodable("name", func(yield func(string) bool) { yield(name) }); err != nil {
		return nil, err
	}
	path, err := sandboxPath(sandbox, "snapshots")
	if err != nil {
		return nil, err
	}
	return c.oneSnapshot(ctx, http.MethodPost, path, map[string]string{"name": name})
}

// GetSnapshot returns a snapshot.
func (c *Client) GetSnapshot(ctx context.Context, id string) (*Snapshot, error) {
	path, err := snapshotPath(id)
	if err != nil {
		return nil, err
	}
	return c.oneSnapshot(ctx, http.MethodGet, path, nil)
}

func (c *Client) oneSnapshot(ctx context.Context, method, path string, in any) (*Snapshot, error) {
	var s Snapshot
	if err := c.call(ctx, method, path, in, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// DeleteSnapshot removes a snapshot. Sandboxes that were created from it go on.
func (c *Client) DeleteSnapshot(ctx context.Context, id string) error {
	path, err := snapshotPath(id)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

func snapshotPath(id string) (string, error) {
	if !idForm.MatchString(id) {
		return "", invalid("snapshot id %q is not of the form snap-xxxxxxxx", id)
	}
	return "/v1/snapshots/" + id, nil
}

// SnapshotListOptions say which snapshots to list. The zero value means all.
type SnapshotListOptions struct {
	Sandbox string // only those of this one
	Limit   int    // of a page: 1 to 200; 0 means 50
	Cursor  string // NextCursor of the page before
}

// SnapshotPage is a part of a list, newest first.
type SnapshotPage struct {
	Items      []Snapshot `json:"items"`
	NextCursor string     `json:"next_cursor"` // "" on the last page
}

// ListSnapshots returns one page of the account's snapshots.
func (c *Client) ListSnapshots(ctx context.Context, opts SnapshotListOptions) (*SnapshotPage, error) {
	query := pageQuery(opts.Limit, opts.Cursor)
	if opts.Sandbox != "" {
		query.Set("sandbox", opts.Sandbox)
	}
	path := "/v1/snapshots"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var page SnapshotPage
	if err := c.call(ctx, http.MethodGet, path, nil, &page); err != nil {
		return nil, err
	}
	return &page, nil
}

// AllSnapshots goes through all pages from opts.Cursor on. After an error it ends.
func (c *Client) AllSnapshots(ctx context.Context, opts SnapshotListOptions) iter.Seq2[Snapshot, error] {
	return pages(opts.Cursor, func(cursor string) ([]Snapshot, string, error) {
		opts.Cursor = cursor
		page, err := c.ListSnapshots(ctx, opts)
		if err != nil {
			return nil, "", err
		}
		return page.Items, page.NextCursor, nil
	})
}
