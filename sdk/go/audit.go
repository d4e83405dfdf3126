package wrenn

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// AuditEvent is something that was done in the account.
type AuditEvent struct {
	ID        int64     `json:"id"`     // a later event has a greater one
	Actor     string    `json:"actor"`  // the id of a key, "operator" or "system"
	Action    string    `json:"action"` // such as sandbox.create
	Target    string    `json:"target"`
	Outcome   string    `json:"outcome"` // accepted, ok, or the code of an error
	RequestID string    `json:"request_id"`
	At        time.Time `json:"at"`
}

// AuditOptions say which events to list. The zero value means all.
type AuditOptions struct {
	Actor, Action, Target, Outcome, RequestID string
	Since, Until                              time.Time
	Limit                                     int    // of a page: 1 to 200; 0 means 50
	Cursor                                    string // NextCursor of the page before
}

func (o AuditOptions) query() url.Values {
	query := pageQuery(o.Limit, o.Cursor)
	for name, value := range map[string]string{
		"actor": o.Actor, "action": o.Action, "target": o.Target, "outcome": o.Outcome, "request_id": o.RequestID,
		"since": timeText(o.Since), "until": timeText(o.Until),
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

// AuditPage is a part of the audit log, newest first.
type AuditPage struct {
	Items      []AuditEvent `json:"items"`
	NextCursor string       `json:"next_cursor"` // "" on the last page
}

// ListAudit returns one page of the account's audit log.
func (c *Client) ListAudit(ctx context.Context, opts AuditOptions) (*AuditPage, error) {
	var page AuditPage
	if err := c.call(ctx, http.MethodGet, withQuery("/v1/audit", opts.query()), nil, &page); err != nil {
		return nil, err
	}
	return &page, nil
}

// timeText is empty for a time that is zero.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Audit goes through all pages from opts.Cursor on. After an error it ends.
func (c *Client) Audit(ctx context.Context, opts AuditOptions) iter.Seq2[AuditEvent, error] {
	return pages(opts.Cursor, func(cursor string) ([]AuditEvent, string, error) {
		opts.Cursor = cursor
		page, err := c.ListAudit(ctx, opts)
		if err != nil {
			return nil, "", err
		}
		return page.Items, page.NextCursor, nil
	})
}
