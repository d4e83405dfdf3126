package wrenn

import (
	"context"
	"net/http"
	"time"
)

// UsageAmount is what was used. It is exact in the API's JSON; a float64 holds 15 digits of it.
type UsageAmount struct {
	VCPUSeconds      float64     `json:"vcpu_seconds"`
	MemoryGiBSeconds float64     `json:"memory_gib_seconds"`
	StoredGiBHours   UsageStored `json:"stored_gib_hours"`
}

// UsageStored is what was stored, in GiB-hours: disks, and the memory that lies there too.
type UsageStored struct {
	Paused     float64 `json:"paused"`     // on hosts
	Hibernated float64 `json:"hibernated"` // in the object store
	Snapshot   float64 `json:"snapshot"`
}

// UsageItem is what was used on a day, or by a sandbox.
type UsageItem struct {
	Day       string      `json:"day,omitempty"` // such as 2026-03-01, of UTC
	SandboxID string      `json:"sandbox_id,omitempty"`
	Used      UsageAmount `json:"used"`
}

// Usage is what the account has used in [From, To).
type Usage struct {
	From       time.Time   `json:"from"`
	To         time.Time   `json:"to"` // not later than now
	Total      UsageAmount `json:"total"`
	Items      []UsageItem `json:"items"`       // without UsageOptions.By none
	NextCursor string      `json:"next_cursor"` // "" on the last page
}

// What usage can be asked by.
const (
	UsageByDay     = "day"
	UsageBySandbox = "sandbox"
)

// UsageOptions say what to count. The zero value means the last 30 days in all.
type UsageOptions struct {
	From, To time.Time // at most 366 days apart; zero for 30 days before To, and for now
	By       string    // UsageByDay, UsageBySandbox, or "" for the total alone
	Limit    int       // of a page of sandboxes: 1 to 200; 0 means 50
	Cursor   string    // NextCursor of the page before
}

// Usage returns what the account has used.
func (c *Client) Usage(ctx context.Context, opts UsageOptions) (*Usage, error) {
	query := pageQuery(opts.Limit, opts.Cursor)
	for name, value := range map[string]string{"from": timeText(opts.From), "to": timeText(opts.To), "by": opts.By} {
		if value != "" {
			query.Set(name, value)
		}
	}
	path := "/v1/usage"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var u Usage
	if err := c.call(ctx, http.MethodGet, path, nil, &u); err != nil {
		return nil, err
	}
	return &u, nil
}
