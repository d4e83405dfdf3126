package wrenn

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Scope is something that a key may do. New scopes may appear.
type Scope string

// The scopes.
const (
	ReadSandboxes  Scope = "sandboxes:read"  // look at sandboxes, snapshots, templates and the pool
	WriteSandboxes Scope = "sandboxes:write" // make, change and end them, and look at them
	UseGuest       Scope = "guest"           // use what is inside: programs, files, contexts, terminals, ports
	ManageKeys     Scope = "keys"            // look at keys, and make, rotate and revoke them
	ReadAudit      Scope = "audit:read"      // look at the audit log
	ManageWebhooks Scope = "webhooks"        // look at webhooks, and make, change and delete them
	Admin          Scope = "admin"           // everything in the account
	ReadHosts      Scope = "hosts:read"      // look at hosts, which are of no account; only an operator gives it
	ManageHosts    Scope = "hosts"           // drain and remove them, let them join, and look at them; likewise
)

// APIKey is a key as the service knows it. What is not known is zero.
type APIKey struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Prefix      string    `json:"prefix"` // the first characters of the key
	Scopes      []Scope   `json:"scopes"`
	CreatedAt   time.Time `json:"created_at"`
	LastUsedAt  time.Time `json:"last_used_at,omitzero"`  // up to some seconds behind
	ExpiresAt   time.Time `json:"expires_at,omitzero"`    // zero: never
	RevokedAt   time.Time `json:"revoked_at,omitzero"`    // zero: it was not
	OldKeyUntil time.Time `json:"old_key_until,omitzero"` // until when the secret before the last rotation works
	Key         string    `json:"key,omitempty"`          // only from CreateAPIKey and RotateAPIKey: nobody can look it up later
}

// CreateAPIKey makes a key that may do what scopes say, for expiresIn, in whole seconds; 0 means as long as the key that makes it. One that could do more than that, or longer, is Forbidden. It is
// never repeated after it was sent.
func (c *Client) CreateAPIKey(ctx context.Context, name string, scopes []Scope, expiresIn time.Duration) (*APIKey, error) {
	if err := encodable("name", func(yield func(string) bool) { yield(name) }); err != nil {
		return nil, err
	}
	body := struct {
		Name      string       `json:"name"`
		Scopes    []Scope      `json:"scopes"`
		ExpiresIn *wireSeconds `json:"expires_in_seconds,omitempty"`
	}{Name: name, Scopes: scopes}
	if expiresIn != 0 {
		body.ExpiresIn = (*wireSeconds)(&expiresIn)
	}
	return c.oneKey(ctx, "/v1/api-keys", body)
}

// RotateAPIKey gives a key another secret, which is in the answer; the one before works on for grace, up to 7 days and in whole seconds. It is never repeated after it was sent.
func (c *Client) RotateAPIKey(ctx context.Context, id string, grace time.Duration) (*APIKey, error) {
	path, err := keyPath(id)
	if err != nil {
		return nil, err
	}
	return c.oneKey(ctx, path+"/rotate", map[string]wireSeconds{"grace_seconds": wireSeconds(grace)})
}

func (c *Client) oneKey(ctx context.Context, path string, body any) (*APIKey, error) {
	var k APIKey
	if err := c.call(ctx, http.MethodPost, path, body, &k); err != nil {
		return nil, err
	}
	return &k, nil
}

// RevokeAPIKey ends a key, which may be that of the client. No request begins with it a second later.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) error {
	path, err := keyPath(id)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

func keyPath(id string) (string, error) {
	if !idForm.MatchString(id) {
		return "", invalid("key id %q is not of the form key-xxxxxxxx", id)
	}
	return "/v1/api-keys/" + id, nil
}

// APIKeys goes through the account's keys, newest first, those that are not valid any more too. After an error it ends.
func (c *Client) APIKeys(ctx context.Context) iter.Seq2[APIKey, error] {
	return pages("", func(cursor string) ([]APIKey, string, error) {
		var page struct {
			Items      []APIKey `json:"items"`
			NextCursor string   `json:"next_cursor"`
		}
		err := c.call(ctx, http.MethodGet, "/v1/api-keys?"+pageQuery(200, cursor).Encode(), nil, &page)
		return page.Items, page.NextCursor, err
	})
}
