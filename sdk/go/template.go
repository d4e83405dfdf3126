package wrenn

import (
	"context"
	"errors"
	"net/http"
)

// Template is what sandboxes are made from.
type Template struct {
	Name             string `json:"name"`
	Digest           string `json:"digest"` // content hash of the image
	Description      string `json:"description"`
	DiskMiB          int    `json:"disk_mib"`
	DefaultVCPUs     int    `json:"default_vcpus"`
	DefaultMemoryMiB int    `json:"default_memory_mib"`
}

// Templates returns all templates, by name.
func (c *Client) Templates(ctx context.Context) ([]Template, error) {
	var list struct{ Items []Template }
	err := c.call(ctx, http.MethodGet, "/v1/templates", nil, &list)
	return list.Items, err
}

// Readiness says whether sandboxes can be made.
type Readiness struct {
	Status string  `json:"status"` // "ready", "degraded" (slower) or "failed"
	Checks []Check `json:"checks"`
}

// Check is one thing that the service needs.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
}

// Ready asks whether sandboxes can be made. It needs no key and is not repeated. An answer of
// "failed" is no error; a service that cannot be reached is.
func (c *Client) Ready(ctx context.Context) (*Readiness, error) {
	ctx, cancel := c.bounded(ctx, c.opts.Timeout)
	defer cancel()
	r, err := c.build(ctx, request{method: http.MethodGet, path: "/readyz"})
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return nil, readError(resp)
	}
	var readiness Readiness
	if err := decode(resp, &readiness); err != nil {
		return nil, err
	}
	if readiness.Status == "" {
		return nil, errors.New("what answers is not the service: its readiness has no status")
	}
	return &readiness, nil
}
