package wrenn

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	// maxBody is the most that is read of a JSON answer. The largest, an exec result with 1 MiB
	// each of stdout and stderr in base64, is below 3 MiB; a page of 200 sandboxes with full metadata below 16 MiB.
	maxBody = 32 << 20
	// maxRetryAfter is the longest wait that the service can ask for.
	maxRetryAfter = 30 * time.Second
)

// request is one call. body is nil or what can be sent again.
type request struct {
	method, path string
	accept       string
	header       map[string]string // beside what every request has
	body         []byte
	stream       io.Reader // a body that cannot be sent again; excludes body
	kind         string    // of stream; "" means application/octet-stream
	key          string    // that makes it safe to repeat; "" for none
}

// call sends in as JSON (nil for none) and reads the answer into out (nil for none).
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := c.bounded(ctx, c.opts.Timeout)
	defer cancel()
	req := request{method: method, path: path}
	if in != nil {
		var err error
		if req.body, err = encode(in); err != nil {
			return err
		}
	}
	return c.exchange(ctx, req, out)
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, invalid("encode request: %v", err)
	}
	return b, nil
}

// exchange sends req and reads the JSON answer into out; nil is for an answer without a body.
func (c *Client) exchange(ctx context.Context, req request, out any) error {
	resp, err := c.send(ctx, req)
	if err != nil {
		return err
	}
	defer drain(resp)
	return decode(resp, out)
}

func decode(resp *http.Response, out any) error {
	b, err := readAll(resp.Body, maxBody)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read answer: it is longer than %d bytes", limit)
	}
	return b, nil
}

// drain reads the little that may be left, so that the connection can be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // best effort
	resp.Body.Close()
}

// bounded gives ctx a deadline if it has none.
func (c *Client) bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// send returns a response of success, whose body the caller closes. It repeats req where that is safe.
func (c *Client) send(ctx context.Context, req request) (*http.Response, error) {
	req.key = idempotencyKey(ctx, req)
	for try := 0; ; try++ {
		resp, err := c.once(ctx, req)
		if err == nil {
			return resp, nil
		}
		wait, safe := c.retry(req, try, err)
		if !safe || pause(ctx, wait) != nil {
			return nil, err.error
		}
	}
}

// failure is an error with what decides whether to try again.
type failure struct {
	error
	retryAfter string
}

func (c *Client) once(ctx context.Context, req request) (*http.Response, *failure) {
	r, err := c.build(ctx, req)
	if err != nil {
		return nil, &failure{error: err}
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, &failure{error: fmt.Errorf("call the service at %s: %w", c.base, innermost(err))}
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer drain(resp)
		return nil, &failure{error: readError(resp), retryAfter: resp.Header.Get("Retry-After")}
	}
	return resp, nil
}

func (c *Client) build(ctx context.Context, req request) (*http.Request, error) {
	var body io.Reader
	switch {
	case req.stream != nil:
		body = req.stream
	case req.body != nil:
		body = bytes.NewReader(req.body)
	}
	r, err := http.NewRequestWithContext(ctx, req.method, c.base+req.path, body)
	if err != nil {
		return nil, invalid("make request: %v", err)
	}
	if sized, ok := req.stream.(interface{ Len() int }); ok && sized.Len() > 0 {
		r.ContentLength = int64(sized.Len())
	}
	if c.opts.APIKey != "" {
		r.Header.Set("X-API-Key", c.opts.APIKey)
	}
	r.Header.Set("User-Agent", c.opts.UserAgent)
	if req.key != "" {
		r.Header.Set("Idempotency-Key", req.key)
	}
	if req.accept != "" {
		r.Header.Set("Accept", req.accept)
	}
	for name, value := range req.header {
		r.Header.Set(name, value)
	}
	switch {
	case req.stream != nil:
		r.Header.Set("Content-Type", cmp.Or(req.kind, "application/octet-stream"))
		r.Header.Set("Expect", "100-continue") // a refusal comes before the body is sent
	case req.body != nil:
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// innermost strips net/http's "Post \"http://…\":", whose URL the message has already.
func innermost(err error) error {
	if wrapped := errors.Unwrap(err); wrapped != nil {
		return wrapped
	}
	return err
}

// retry decides whether and after which wait a failed request is sent again.
func (c *Client) retry(req request, try int, f *failure) (time.Duration, bool) {
	if try >= c.opts.MaxRetries || req.stream != nil {
		return 0, false
	}
	var coded *Error
	answered := errors.As(f.error, &coded)
	if errors.Is(f.error, syscall.ECONNREFUSED) || !answered && req.key != "" {
		wait := c.backoff << try
		return wait/2 + rand.N(wait/2+1), true
	}
	seconds, err := strconv.Atoi(f.retryAfter)
	if !answered || !again(coded.Status, req) || err != nil || seconds < 0 {
		return 0, false
	}
	wait := time.Duration(seconds) * time.Second
	return wait, wait <= maxRetryAfter
}

// again tells whether an answer that says when to try again may be followed: what was refused for its rate has done nothing, and 409 says that the request with
// the same key is under way.
func again(status int, req request) bool {
	switch status {
	case http.StatusTooManyRequests:
		return true
	case http.StatusServiceUnavailable:
		return req.method == http.MethodGet || req.key != ""
	case http.StatusConflict:
		return req.key != ""
	}
	return false
}

// pause waits, unless ctx would end before.
func pause(ctx context.Context, wait time.Duration) error {
	if deadline, has := ctx.Deadline(); has && time.Until(deadline) < wait {
		return context.DeadlineExceeded
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
