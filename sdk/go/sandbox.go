package wrenn

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// State is where a sandbox is in its life. New states may appear.
type State string

// The states. Pending, Starting, Pausing, Resuming, Hibernating and Stopping pass by themselves.
const (
	Pending  State = "pending"
	Starting State = "starting"
	Running  State = "running"
	Pausing  State = "pausing"
	Paused   State = "paused" // its memory lies on its host's disk
	Resuming State = "resuming"
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Failed   State = "error"

	Hibernating State = "hibernating" // paused, and on its way into the object store
	Hibernated  State = "hibernated"  // in the object store, and on no host
)

// Sandbox is a sandbox as the service knows it. What is not known yet is zero.
type Sandbox struct {
	ID            string            `json:"id"`
	Name          string            `json:"name,omitempty"`
	Template      string            `json:"template"`
	State         State             `json:"state"`
	StateReason   string            `json:"state_reason,omitempty"` // why it is in this state
	VCPUs         int               `json:"vcpus"`
	MemoryMiB     int               `json:"memory_mib"`
	DiskMiB       int               `json:"disk_mib,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Network       NetworkPolicy     `json:"network"` // that is wanted; Client.Network tells whether it is in force
	AutoResume    bool              `json:"auto_resume"`
	Lifecycle     Lifecycle         `json:"lifecycle"`         // what becomes of it by itself
	HostID        string            `json:"host_id,omitempty"` // empty while it is on none
	CreatedAt     time.Time         `json:"created_at"`
	StartedAt     time.Time         `json:"started_at,omitzero"` // when it first ran
	UpdatedAt     time.Time         `json:"updated_at"`          // when its state last changed
	StateDeadline time.Time         `json:"state_deadline,omitzero"`
	Generation    int64             `json:"generation"`            // grows by one with every change of state
	Timings       []Timing          `json:"timings,omitempty"`     // what its creation spent its time on
	Resumed       *Certificate      `json:"resumed,omitempty"`     // what its guest renewed at its last resume, or when it was made by a fork or from a snapshot; nil before
	Archive       *Archive          `json:"archive,omitempty"`     // its last hibernation; nil before
	ParentID      string            `json:"parent_id,omitempty"`   // the sandbox that it was forked from
	SnapshotID    string            `json:"snapshot_id,omitempty"` // the snapshot that it was created from, which may have been deleted
	VerifiedAt    time.Time         `json:"verified_at,omitzero"`  // when the snapshot that it sleeps in was last read and found whole
}

// Timing is one step of an operation.
type Timing struct {
	Step         string  `json:"step"`
	Milliseconds float64 `json:"ms"`
}

// CreateSandboxRequest says what to create. Only Template is required, or in its place Snapshot; 0 means the template's default.
type CreateSandboxRequest struct {
	Template  string            `json:"template,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`      // 1 to 32
	MemoryMiB int               `json:"memory_mib,omitempty"` // 128 to 65536
	DiskMiB   int               `json:"disk_mib,omitempty"`   // not below the template's disk
	Env       map[string]string `json:"env,omitempty"`        // of every program started in the sandbox
	Metadata  map[string]string `json:"metadata,omitempty"`   // the caller's own labels
	Name      string            `json:"name,omitempty"`       // at most 128 characters
	Network   *NetworkPolicy    `json:"network,omitempty"`    // nil: all public addresses

	AutoResume *bool `json:"auto_resume,omitempty"` // nil: requests resume it while it sleeps
	// Snapshot is the id of one to create it from. Template and size are the snapshot's then and must be left out; so are network and environment unless they are given.
	Snapshot  string           `json:"snapshot,omitempty"`
	Lifecycle *LifecycleChange `json:"lifecycle,omitempty"` // nil: as the service is configured; by default nothing becomes of it by itself

	Wait time.Duration `json:"-"` // for room in the account's pool, up to 10 minutes, in whole seconds; 0: Exhausted at once
}

// CreateSandbox creates a sandbox and returns when it runs. Repeated, it is carried out once. When
// ctx ends before the answer, the creation goes on: look for it with ListSandboxes.
func (c *Client) CreateSandbox(ctx context.Context, req CreateSandboxRequest) (*Sandbox, error) {
	if err := encodable("template, name, env, metadata and network", req.texts()); err != nil {
		return nil, err
	}
	var s Sandbox
	if err := c.callWithin(ctx, req.Wait, "/v1/sandboxes", req, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

func (r CreateSandboxRequest) texts() iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(r.Template) || !yield(r.Name) || !entries(r.Env, yield) || !entries(r.Metadata, yield) || r.Network == nil {
			return
		}
		r.Network.texts()(yield)
	}
}

// GetSandbox returns a sandbox, also one that was destroyed.
func (c *Client) GetSandbox(ctx context.Context, id string) (*Sandbox, error) {
	return c.oneSandbox(ctx, http.MethodGet, id)
}

// DestroySandbox destroys a sandbox, whatever its state, and returns it as stopped. Repeated, the answer is the same.
func (c *Client) DestroySandbox(ctx context.Context, id string) (*Sandbox, error) {
	return c.oneSandbox(ctx, http.MethodDelete, id)
}

// SetMetadata gives a sandbox other labels, in whatever state it is, and returns the sandbox.
func (c *Client) SetMetadata(ctx context.Context, id string, metadata map[string]string) (*Sandbox, error) {
	path, err := sandboxPath(id)
	if err != nil {
		return nil, err
	}
	if err := encodable("metadata", func(yield func(string) bool) { entries(metadata, yield) }); err != nil {
		return nil, err
	}
	if metadata == nil {
		metadata = map[string]string{}
	}
	var s Sandbox
	body := map[string]any{"metadata": metadata}
	if err := c.call(ctx, http.MethodPatch, path, body, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

func (c *Client) oneSandbox(ctx context.Context, method, id string, below ...string) (*Sandbox, error) {
	path, err := sandboxPath(id, below...)
	if err != nil {
		return nil, err
	}
	var s Sandbox
	if err := c.call(ctx, method, path, nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// ListOptions say which sandboxes to list. The zero value means all but the stopped ones.
type ListOptions struct {
	States   []State
	Template string
	Metadata map[string]string // that they have, beside others
	Limit    int               // of a page: 1 to 200; 0 means 50
	Cursor   string            // NextCursor of the page before
}

// SandboxPage is a part of a list, newest first.
type SandboxPage struct {
	Items      []Sandbox `json:"items"`
	NextCursor string    `json:"next_cursor"` // "" on the last page
}

// ListSandboxes returns one page of the account's sandboxes.
func (c *Client) ListSandboxes(ctx context.Context, opts ListOptions) (*SandboxPage, error) {
	query := pageQuery(opts.Limit, opts.Cursor)
	for _, s := range opts.States {
		query.Add("state", string(s))
	}
	if opts.Template != "" {
		query.Set("template", opts.Template)
	}
	for key, value := range opts.Metadata {
		query.Set("metadata."+key, value)
	}
	path := "/v1/sandboxes"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var page SandboxPage
	if err := c.call(ctx, http.MethodGet, path, nil, &page); err != nil {
		return nil, err
	}
	return &page, nil
}

// pageQuery asks for one page of a list.
func pageQuery(limit int, cursor string) url.Values {
	query := url.Values{}
	if limit != 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	return query
}

// AllSandboxes goes through all pages from opts.Cursor on. After an error it ends.
func (c *Client) AllSandboxes(ctx context.Context, opts ListOptions) iter.Seq2[Sandbox, error] {
	return pages(opts.Cursor, func(cursor string) ([]Sandbox, string, error) {
		opts.Cursor = cursor
		page, err := c.ListSandboxes(ctx, opts)
		if err != nil {
			return nil, "", err
		}
		return page.Items, page.NextCursor, nil
	})
}

// pages goes through all pages of a list from cursor on. After an error it ends.
func pages[T any](cursor string, list func(cursor string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			items, next, err := list(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" || next == cursor {
				return
			}
			cursor = next
		}
	}
}

// Logs returns the last part (at most 512 KiB) of what the guest wrote to its console.
// Bytes that are no UTF-8 are replaced by U+FFFD.
func (c *Client) Logs(ctx context.Context, id string) (string, error) {
	path, err := sandboxPath(id, "logs")
	if err != nil {
		return "", err
	}
	ctx, cancel := c.bounded(ctx, c.opts.Timeout)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodGet, path: path})
	if err != nil {
		return "", err
	}
	defer drain(resp)
	b, err := readAll(resp.Body, maxBody)
	return string(b), err
}
