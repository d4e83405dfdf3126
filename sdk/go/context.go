package wrenn

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Language is that of a context.
type Language string

// The languages. Which of them there are is up to the template.
const (
	Python     Language = "python"     // 3.9 or newer
	JavaScript Language = "javascript" // Node.js 18 or newer
)

// CreateContextRequest says what interpreter to start. The zero value is Python.
type CreateContextRequest struct {
	Language Language          `json:"language,omitempty"`
	Cwd      string            `json:"cwd,omitempty"` // "" means the user's home directory
	Env      map[string]string `json:"env,omitempty"`
	User     string            `json:"user,omitempty"` // "" means the template's default user
}

// CodeContext is an interpreter in a sandbox that keeps the variables of what is executed in it.
type CodeContext struct {
	ID        string    `json:"id"`
	Language  Language  `json:"language"`
	Cwd       string    `json:"cwd,omitempty"`
	User      string    `json:"user"`
	PID       int       `json:"pid"`
	CreatedAt time.Time `json:"created_at"`
}

// CreateContext starts an interpreter and returns when it is ready. It lives until it is deleted, crashes or the sandbox
// ends. Repeated, it is carried out at most once.
func (c *Client) CreateContext(ctx context.Context, id string, req CreateContextRequest) (*CodeContext, error) {
	path, err := sandboxPath(id, "contexts")
	if err != nil {
		return nil, err
	}
	if err := encodable("the texts of a context", req.texts()); err != nil {
		return nil, err
	}
	var made CodeContext
	if err := c.call(ctx, http.MethodPost, path, req, &made); err != nil {
		return nil, err
	}
	return &made, nil
}

func (r CreateContextRequest) texts() iter.Seq[string] {
	return func(yield func(string) bool) {
		_ = yield(string(r.Language)) && yield(r.Cwd) && yield(r.User) && entries(r.Env, yield)
	}
}

// Contexts returns the contexts of a sandbox, oldest first.
func (c *Client) Contexts(ctx context.Context, id string) ([]CodeContext, error) {
	path, err := sandboxPath(id, "contexts")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []CodeContext }
	err = c.call(ctx, http.MethodGet, path, nil, &list)
	return list.Items, err
}

// GetContext returns a context.
func (c *Client) GetContext(ctx context.Context, id, contextID string) (*CodeContext, error) {
	path, err := contextPath(id, contextID)
	if err != nil {
		return nil, err
	}
	var found CodeContext
	if err := c.call(ctx, http.MethodGet, path, nil, &found); err != nil {
		return nil, err
	}
	return &found, nil
}

// DeleteContext ends a context and what runs in it. It can be repeated.
func (c *Client) DeleteContext(ctx context.Context, id, contextID string) error {
	path, err := contextPath(id, contextID)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// InterruptContext interrupts what a context executes, which then ends with the status Interrupted. Without anything running
// nothing happens.
func (c *Client) InterruptContext(ctx context.Context, id, contextID string) error {
	path, err := contextPath(id, contextID, "interrupt")
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, nil, nil)
}

func contextPath(id, contextID string, below ...string) (string, error) {
	if !idForm.MatchString(contextID) {
		return "", invalid("context id %q is not of the form ctx-xxxxxxxx", contextID)
	}
	return sandboxPath(id, append([]string{"contexts", contextID}, below...)...)
}
