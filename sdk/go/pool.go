package wrenn

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// Pool is what the account may have at a time, and what it has. A sandbox that sleeps takes of it disk alone.
type Pool struct {
	VCPUs     PoolShare `json:"vcpus"`
	MemoryMiB PoolShare `json:"memory_mib"`
	DiskMiB   PoolShare `json:"disk_mib"`
	Sandboxes PoolShare `json:"sandboxes"` // that run
}

// PoolShare is one part of a pool.
type PoolShare struct {
	Limit *int64 `json:"limit"` // nil where there is none
	Used  int64  `json:"used"`
}

// Pool returns the account's pool.
func (c *Client) Pool(ctx context.Context) (*Pool, error) {
	var p Pool
	if err := c.call(ctx, http.MethodGet, "/v1/pool", nil, &p); err != nil {
		return nil, err
	}
	return &p, nil
}

// callWithin posts what may wait for room, for which it has that much more time.
func (c *Client) callWithin(ctx context.Context, wait time.Duration, path string, in, out any) error {
	if wait > 0 {
		path += "?wait_seconds=" + strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
	}
	ctx, cancel := c.bounded(ctx, c.opts.Timeout+max(0, wait))
	defer cancel()
	return c.call(ctx, http.MethodPost, path, in, out)
}
