package wrenn

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Event is one change of a sandbox's state.
type Event struct {
	ID         string    `json:"id"`
	SandboxID  string    `json:"sandbox_id"`
	From       State     `json:"from,omitempty"` // "" for the first
	To         State     `json:"to"`
	Reason     string    `json:"reason,omitempty"`
	Actor      string    `json:"actor"` // the id of the API key that asked for it, or "system"
	At         time.Time `json:"at"`
	Generation int64     `json:"generation"`
}

// EventPage is a part of a list.
type EventPage struct {
	Items      []Event `json:"items"`
	NextCursor string  `json:"next_cursor"` // "" on the last page
}

// Events returns all changes of a sandbox's state, oldest first.
func (c *Client) Events(ctx context.Context, id string) ([]Event, error) {
	path, err := sandboxPath(id, "events")
	if err != nil {
		return nil, err
	}
	var all []Event
	for e, err := range c.eventPages(ctx, path, EventOptions{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// EventOptions say which events to list. The zero value means all of the account.
type EventOptions struct {
	Sandbox string // only those of this one
	Limit   int    // of a page: 1 to 200; 0 means 50
	Cursor  string // NextCursor of the page before
}

// AllEvents goes through the events of the account, newest first, from opts.Cursor on. After an error it ends.
func (c *Client) AllEvents(ctx context.Context, opts EventOptions) iter.Seq2[Event, error] {
	return c.eventPages(ctx, "/v1/events", opts)
}

func (c *Client) eventPages(ctx context.Context, path string, opts EventOptions) iter.Seq2[Event, error] {
	return pages(opts.Cursor, func(cursor string) ([]Event, string, error) {
		query := pageQuery(opts.Limit, cursor)
		if opts.Sandbox != "" {
			query.Set("sandbox", opts.Sandbox)
		}
		var page EventPage
		err := c.call(ctx, http.MethodGet, withQuery(path, query), nil, &page)
		return page.Items, page.NextCursor, err
	})
}

// FollowOptions say which events to follow. The zero value means all of the account, from now on.
type FollowOptions struct {
	Sandbox string // only those of this one
	After   string // id of an event: what has happened since; "" for from now on
}

// FollowEvents goes through events as they happen, until ctx ends. Where the connection breaks or the service is restarted it goes on after the last event: none is missed, and none
// comes twice. After an error it ends; ctx's is one.
func (c *Client) FollowEvents(ctx context.Context, opts FollowOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var since time.Time // when the connection broke; zero while there is one
		for wait := c.backoff; ; wait = min(2*wait, reconnectMost) {
			more, err := c.followOnce(ctx, &opts, func(e Event) bool {
				since, wait = time.Time{}, c.backoff
				return yield(e, nil)
			})
			if !more {
				return
			}
			if since.IsZero() {
				since = time.Now()
			}
			switch {
			case ctx.Err() != nil:
				err = ctx.Err()
			case broken(err) && time.Since(since) < reconnectFor && pause(ctx, wait) == nil:
				continue
			}
			yield(Event{}, err)
			return
		}
	}
}

// followOnce follows events until the connection breaks, and leaves in opts where to go on. more is false when yield wants no more.
func (c *Client) followOnce(ctx context.Context, opts *FollowOptions, yield func(Event) bool) (more bool, _ error) {
	path, query := "/v1/events", url.Values{}
	if opts.Sandbox != "" {
		query.Set("sandbox", opts.Sandbox)
	}
	call := request{method: http.MethodGet, path: withQuery(path, query)}
	if opts.After != "" {
		call.header = map[string]string{"Last-Event-ID": opts.After}
	}
	stream, err := c.events(ctx, call)
	if err != nil {
		return true, err
	}
	defer stream.Close()
	for {
		got, err := stream.read()
		if err == nil && got.name == "error" {
			err = streamError(got.data)
		}
		if err != nil {
			return true, err
		}
		if got.id != "" {
			opts.After = got.id
		}
		if got.name != "state" { // the first one says where the stream begins; others are for newer clients
			continue
		}
		var e Event
		if err := json.Unmarshal(got.data, &e); err != nil {
			return true, invalid("decode event: %v", err)
		}
		if !yield(e) {
			return false, nil
		}
	}
}
