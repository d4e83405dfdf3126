package wrenn

import (
	"context"
	"net/http"
	"time"
)

// Certificate says what a sandbox renewed when it was resumed, in order.
type Certificate struct {
	At    time.Time         `json:"at"`
	Steps []CertificateStep `json:"steps"`
}

// CertificateStep is one thing that was renewed, or a hook that was run.
type CertificateStep struct {
	Step         string  `json:"step"`
	Kept         bool    `json:"kept"`             // it stays as it was, since it is still right
	Output       string  `json:"output,omitempty"` // of a hook, the beginning
	Milliseconds float64 `json:"ms"`
}

// PauseSandbox puts a running sandbox to sleep and returns it once its memory is on its host's disk. What runs in it, and its connections, go on with the
// next resume; requests under way to it fail. It may be repeated: the answer is the same.
func (c *Client) PauseSandbox(ctx context.Context, id string) (*Sandbox, error) {
	return c.oneSandbox(ctx, http.MethodPost, id, "pause")
}

// ResumeSandbox has a paused or hibernated sandbox go on and returns it once it can be used. Requests to it do so too, unless it was created with AutoResume false.
// After an error it sleeps as it did, and its StateReason says why.
func (c *Client) ResumeSandbox(ctx context.Context, id string) (*Sandbox, error) {
	return c.ResumeSandboxWithin(ctx, id, 0)
}

// ResumeSandboxWithin is ResumeSandbox that waits for room in the account's pool, up to 10 minutes and in whole seconds.
func (c *Client) ResumeSandboxWithin(ctx context.Context, id string, wait time.Duration) (*Sandbox, error) {
	path, err := sandboxPath(id, "resume")
	if err != nil {
		return nil, err
	}
	var s Sandbox
	if err := c.callWithin(ctx, wait, path, nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// HibernateSandbox puts a paused or running sandbox into the object store and returns it once no host holds anything of it. It goes on, on whatever host, with the next
// resume or request. After an error it is paused, or runs on where the object store could not be reached; the next attempt goes on where this one was. A resume ends
// it. It may be repeated: the answer is the same.
func (c *Client) HibernateSandbox(ctx context.Context, id string) (*Sandbox, error) {
	return c.oneSandbox(ctx, http.MethodPost, id, "hibernate")
}

// Archive is what is stored of a sandbox.
type Archive struct {
	SentBytes int64 `json:"sent_bytes"` // to the object store, compressed, without what was there already
}
