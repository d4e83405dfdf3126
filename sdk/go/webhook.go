package wrenn

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Webhook is where the account has events sent. What is not known is zero.
type Webhook struct {
	ID             string    `json:"id"`
	URL            string    `json:"url"`
	Events         []string  `json:"events"` // types of events, such as sandbox.running; empty for all
	Enabled        bool      `json:"enabled"`
	State          string    `json:"state"`                     // active, failing or disabled; new states may appear
	Failure        string    `json:"failure,omitempty"`         // why the last attempt has failed
	FailingSince   time.Time `json:"failing_since,omitzero"`    // zero while it works
	NextAttemptAt  time.Time `json:"next_attempt_at,omitzero"`  // of one that fails
	OldSecretUntil time.Time `json:"old_secret_until,omitzero"` // until when messages are signed with the secret before the last rotation, too
	CreatedAt      time.Time `json:"created_at"`
	Secret         string    `json:"secret,omitempty"` // only from CreateWebhook and RotateWebhook: nobody can look it up later
}

// Delivery is a message to a webhook, and what came of its last attempt.
type Delivery struct {
	ID            string    `json:"id"`   // the webhook-id of the message
	Type          string    `json:"type"` // such as sandbox.running, or webhook.ping
	EventID       string    `json:"event_id,omitempty"`
	SandboxID     string    `json:"sandbox_id,omitempty"`
	State         string    `json:"state"` // pending, delivered or failed
	Attempts      int       `json:"attempts"`
	Status        int       `json:"status,omitempty"` // of the last answer; 0 where there was none
	Error         string    `json:"error,omitempty"`
	LastAttemptAt time.Time `json:"last_attempt_at,omitzero"`
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"` // zero: there is none
	CreatedAt     time.Time `json:"created_at"`
}

// CreateWebhook has events of these types, or all for none, sent to a URL from now on.
func (c *Client) CreateWebhook(ctx context.Context, url string, events []string) (*Webhook, error) {
	if err := encodable("url", func(yield func(string) bool) { yield(url) }); err != nil {
		return nil, err
	}
	return answered[Webhook](ctx, c, http.MethodPost, "/v1/webhooks", struct {
		URL    string   `json:"url"`
		Events []string `json:"events,omitempty"`
	}{url, events})
}

// Webhook returns a webhook, without its secret.
func (c *Client) Webhook(ctx context.Context, id string) (*Webhook, error) {
	path, err := webhookPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Webhook](ctx, c, http.MethodGet, path, nil)
}

// WebhookChange says what to change of a webhook. What is nil stays.
type WebhookChange struct {
	URL     *string   `json:"url,omitempty"`
	Events  *[]string `json:"events,omitempty"` // empty for all
	Enabled *bool     `json:"enabled,omitempty"`
}

// ChangeWebhook changes a webhook. One that is enabled again is told of what happens from then on.
func (c *Client) ChangeWebhook(ctx context.Context, id string, change WebhookChange) (*Webhook, error) {
	path, err := webhookPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Webhook](ctx, c, http.MethodPatch, path, change)
}

// RotateWebhook gives a webhook another secret, which is in the answer; messages are signed with the one before, too, for grace, up to 7 days and in whole seconds.
func (c *Client) RotateWebhook(ctx context.Context, id string, grace time.Duration) (*Webhook, error) {
	path, err := webhookPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Webhook](ctx, c, http.MethodPost, path+"/rotate", map[string]wireSeconds{"grace_seconds": wireSeconds(grace)})
}

// DeleteWebhook deletes a webhook, and what was still to be delivered.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	path, err := webhookPath(id)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// PingWebhook has a message sent that is about no event.
func (c *Client) PingWebhook(ctx context.Context, id string) (*Delivery, error) {
	path, err := webhookPath(id)
	if err != nil {
		return nil, err
	}
	return answered[Delivery](ctx, c, http.MethodPost, path+"/ping", nil)
}

// RetryDelivery has something sent to a webhook again, at once.
func (c *Client) RetryDelivery(ctx context.Context, webhook, delivery string) (*Delivery, error) {
	path, err := webhookPath(webhook)
	if err != nil {
		return nil, err
	}
	if !idForm.MatchString(delivery) {
		return nil, invalid("delivery id %q is not of the form msg-xxxxxxxxxxxxxxxx", delivery)
	}
	return answered[Delivery](ctx, c, http.MethodPost, path+"/deliveries/"+delivery+"/retry", nil)
}

// Webhooks goes through the account's webhooks, newest first. After an error it ends.
func (c *Client) Webhooks(ctx context.Context) iter.Seq2[Webhook, error] {
	return listed[Webhook](ctx, c, "/v1/webhooks")
}

// Deliveries goes through what is, was or will be sent to a webhook, newest first. After an error it ends.
func (c *Client) Deliveries(ctx context.Context, webhook string) iter.Seq2[Delivery, error] {
	path, err := webhookPath(webhook)
	if err != nil {
		return func(yield func(Delivery, error) bool) { yield(Delivery{}, err) }
	}
	return listed[Delivery](ctx, c, path+"/deliveries")
}

func webhookPath(id string) (string, error) {
	if !idForm.MatchString(id) {
		return "", invalid("webhook id %q is not of the form wh-xxxxxxxx", id)
	}
	return "/v1/webhooks/" + id, nil
}

// answered is the answer to a call.
func answered[T any](ctx context.Context, c *Client, method, path string, in any) (*T, error) {
	var v T
	if err := c.call(ctx, method, path, in, &v); err != nil {
		return nil, err
	}
	return &v, nil
}

// listed goes through the pages of a list.
func listed[T any](ctx context.Context, c *Client, path string) iter.Seq2[T, error] {
	return pages("", func(cursor string) ([]T, string, error) {
		var page struct {
			Items      []T    `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		err := c.call(ctx, http.MethodGet, path+"?"+pageQuery(200, cursor).Encode(), nil, &page)
		return page.Items, page.NextCursor, err
	})
}
