package wrenn

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// HostState is what may be expected of a host. New states may appear.
type HostState string

// The states of a host. What it has it keeps in all of them.
const (
	HostReady       HostState = "ready"
	HostDraining    HostState = "draining"    // it takes no new sandboxes, and those that sleep leave it
	HostQuarantined HostState = "quarantined" // its creates have failed: it takes none until a probe succeeds
	HostDown        HostState = "down"        // it cannot be reached
)

// Host is a machine that sandboxes run on, as whoever runs the service sees it: the key must have the scope ReadHosts or ManageHosts. What is not known is zero.
type Host struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Address     string     `json:"address"`
	State       HostState  `json:"state"`
	StateReason string     `json:"state_reason,omitempty"`
	StateSince  time.Time  `json:"state_since"`
	Drain       *HostDrain `json:"drain,omitempty"` // nil unless it is drained

	VCPUs     HostRoom       `json:"vcpus"`
	MemoryMiB HostRoom       `json:"memory_mib"`
	DiskMiB   HostRoom       `json:"disk_mib"`
	Sandboxes HostSandboxes  `json:"sandboxes"`
	Snapshots int            `json:"snapshots"`
	Templates []HostTemplate `json:"templates"`

	AgentVersion  string `json:"agent_version"`
	Driver        string `json:"driver"`
	DriverVersion string `json:"driver_version"`
	Accelerator   string `json:"accelerator"`
	ObjectStore   bool   `json:"object_store"` // without one nothing can leave it

	LastSeenAt       time.Time `json:"last_seen_at"`
	CreatedAt        time.Time `json:"created_at"`
	JoinedAt         time.Time `json:"joined_at,omitzero"`         // with a token
	CertificateUntil time.Time `json:"certificate_until,omitzero"` // of what it has shown lastly
}

// HostRoom is what is promised to sandboxes: up to Capacity times Overcommit.
type HostRoom struct {
	Capacity   int64   `json:"capacity"`
	Overcommit float64 `json:"overcommit"`
	Promised   int64   `json:"promised"`
}

// HostSandboxes is how many sandboxes are on a host.
type HostSandboxes struct {
	Running  int `json:"running"` // those that come, go or change, too
	Sleeping int `json:"sleeping"`
}

// HostDrain is how far a drain has come.
type HostDrain struct {
	Evict   bool `json:"evict"`
	Leaving int  `json:"leaving"` // sandboxes that have still to leave
	Staying int  `json:"staying"` // those that run, and are not evicted
	Done    bool `json:"done"`
}

// HostTemplate is a template that a host has.
type HostTemplate struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Warm   bool   `json:"warm"` // sandboxes of it need not boot there
}

// Hosts goes through the hosts in some states, or all for none, newest first. After an error it ends.
func (c *Client) Hosts(ctx context.Context, states ...HostState) iter.Seq2[Host, error] {
	return pages("", func(cursor string) ([]Host, string, error) {
		query := pageQuery(200, cursor)
		for _, s := range states {
			query.Add("state", string(s))
		}
		var page struct {
			Items      []Host `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		err := c.call(ctx, http.MethodGet, "/v1/hosts?"+query.Encode(), nil, &page)
		return page.Items, page.NextCursor, err
	})
}

// Host returns a host.
func (c *Client) Host(ctx context.Context, id string) (*Host, error) {
	path, err := hostPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Host](ctx, c, http.MethodGet, path, nil)
}

// DrainHost has a host take no new sandboxes, and those that sleep leave it; with evict those that run are paused, and leave too. It does not wait for that: see Host.Drain.
func (c *Client) DrainHost(ctx context.Context, id string, evict bool) (*Host, error) {
	path, err := hostPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Host](ctx, c, http.MethodPost, path+"/drain", map[string]bool{"evict": evict})
}

// UndrainHost has a host take sandboxes again.
func (c *Client) UndrainHost(ctx context.Context, id string) (*Host, error) {
	path, err := hostPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Host](ctx, c, http.MethodPost, path+"/undrain", nil)
}

// RemoveHost removes a host for good. While it holds anything that is Precondition, unless force gives that up.
func (c *Client) RemoveHost(ctx context.Context, id string, force bool) error {
	path, err := hostPath(id)
	if err != nil {
		return err
	}
	if force {
		path += "?force=true"
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// HostToken lets one host join, once.
type HostToken struct {
	ID        string    `json:"id"` // how the audit log names it
	HostID    string    `json:"host_id,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Token     string    `json:"token,omitempty"` // only from CreateHostToken: nobody can look it up later
}

// CreateHostToken makes a token for a host that is to join again, or for a new one where host is empty, to be used within ttl, up to 7 days and in whole seconds; 0 means an hour. It is never
// repeated after it was sent.
func (c *Client) CreateHostToken(ctx context.Context, host string, ttl time.Duration) (*HostToken, error) {
	var body struct {
		Host    string       `json:"host_id,omitempty"`
		Expires *wireSeconds `json:"expires_in_seconds,omitempty"`
	}
	if host != "" {
		if _, err := hostPath(host); err != nil {
			return nil, err
		}
		body.Host = host
	}
	if ttl != 0 {
		body.Expires = (*wireSeconds)(&ttl)
	}
	return answered[HostToken](ctx, c, http.MethodPost, "/v1/hosts/tokens", body)
}

// HostTokens goes through the tokens that can still be used, newest first: those with which no host has joined, that have not expired and were not revoked. After an error it ends.
func (c *Client) HostTokens(ctx context.Context) iter.Seq2[HostToken, error] {
	return pages("", func(cursor string) ([]HostToken, string, error) {
		var page struct {
			Items      []HostToken `json:"items"`
			NextCursor string      `json:"next_cursor"`
		}
		err := c.call(ctx, http.MethodGet, "/v1/hosts/tokens?"+pageQuery(200, cursor).Encode(), nil, &page)
		return page.Items, page.NextCursor, err
	})
}

// RevokeHostToken has a token let no host join any more, given its id; of one that was revoked already nothing changes. Where a host has joined with it that is Precondition.
func (c *Client) RevokeHostToken(ctx context.Context, id string) error {
	if !idForm.MatchString(id) {
		return invalid("the id of a token is of the form token-xxxxxxxxxxxxxxxx, and is not the token itself") // which is not repeated
	}
	return c.call(ctx, http.MethodDelete, "/v1/hosts/tokens/"+id, nil, nil)
}

// HostAuditEvent is something that was done to a host.
type HostAuditEvent struct {
	AuditEvent
	Detail string `json:"detail,omitempty"` // such as evict, or why it is in quarantine
}

// HostAudit goes through what was done to hosts, newest first, from opts.Cursor on. After an error it ends.
func (c *Client) HostAudit(ctx context.Context, opts AuditOptions) iter.Seq2[HostAuditEvent, error] {
	return pages(opts.Cursor, func(cursor string) ([]HostAuditEvent, string, error) {
		opts.Cursor = cursor
		var page struct {
			Items      []HostAuditEvent `json:"items"`
			NextCursor string           `json:"next_cursor"`
		}
		err := c.call(ctx, http.MethodGet, withQuery("/v1/hosts/audit", opts.query()), nil, &page)
		return page.Items, page.NextCursor, err
	})
}

func hostPath(id string) (string, error) {
	if !idForm.MatchString(id) {
		return "", invalid("host id %q is not of the form host-xxxxxxxx", id)
	}
	return "/v1/hosts/" + id, nil
}
