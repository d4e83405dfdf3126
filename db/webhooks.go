package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// MaxWebhooks is how many webhooks an account can have.
const MaxWebhooks = 20

// Webhook is where an account has events of its sandboxes sent to.
type Webhook struct {
	ID        id.Webhook
	Account   id.Account
	URL       string
	Events    []string // types of events; empty for all
	Secret    []byte
	OldSecret []byte    // the one before the last rotation; nil for none
	OldUntil  time.Time // what is sent is signed with it, too
	Enabled   bool
	CreatedAt time.Time

	Failures     int       // attempts that have failed since the last one that did not
	FailingSince time.Time // zero while it works
	Failure      string    // the last one
	RetryAt      time.Time // nothing is sent before; zero for at once
}

// NewWebhook is a webhook that does not exist yet.
type NewWebhook struct {
	ID      id.Webhook
	Account id.Account
	URL     string
	Events  []string
	Secret  []byte
	Enabled bool
	By      By
}

// WebhookChange changes a webhook: what is nil stays.
type WebhookChange struct {
	URL     *string
	Events  *[]string
	Enabled *bool
}

// WebhookFilter chooses webhooks of a list.
type WebhookFilter struct {
	Account  id.Account
	Before   time.Time // only those that come after (Before, BeforeID) in the list; zero for the first page
	BeforeID id.Webhook
	Limit    int
}

func webhook(r dbgen.Webhook) (Webhook, error) {
	w := Webhook{
		ID: id.Webhook(r.ID), Account: id.Account(r.AccountID), URL: r.Url, Events: r.Events, Secret: r.Secret, Enabled: r.Enabled, CreatedAt: r.CreatedAt,
		Failures: int(r.Failures), FailingSince: orZero(r.FailingSince), Failure: r.Failure, RetryAt: orZero(r.RetryAt),
	}
	if until := orZero(r.OldUntil); time.Now().Before(until) {
		w.OldSecret, w.OldUntil = r.OldSecret, until
	}
	return w, nil
}

// CreateWebhook keeps a webhook, with its audit event, and returns it. It is told of what happens from now on. Exhausted when the account has MaxWebhooks.
func (s *Store) CreateWebhook(ctx context.Context, n NewWebhook) (Webhook, error) {
	return retry(ctx, func(ctx context.Context) (Webhook, error) {
		var made Webhook
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			made, err = insertWebhook(ctx, s.q.WithTx(tx), n)
			return err
		})
		if isUnique(err) { // the answer to an earlier try may have been lost
			was, found := s.Webhook(ctx, n.Account, n.ID)
			if found == nil && string(was.Secret) == string(n.Secret) {
				return was, nil
			}
			return Webhook{}, models.Errorf(models.Conflict, "the id of the webhook is taken").WithHint("try again").WithCause(err)
		}
		return made, err
	})
}

func insertWebhook(ctx context.Context, q *dbgen.Queries, n NewWebhook) (Webhook, error) {
	has, err := q.LockAccountForWebhook(ctx, string(n.Account))
	if err != nil {
		return Webhook{}, fmt.Errorf("count the webhooks of %s: %w", n.Account, err)
	}
	if has >= MaxWebhooks {
		return Webhook{}, models.Errorf(models.Exhausted, "the account has %d webhooks, and can have no more", MaxWebhooks).WithHint("delete one, or have one told of more")
	}
	row, err := q.InsertWebhook(ctx, dbgen.InsertWebhookParams{
		ID: string(n.ID), AccountID: string(n.Account), Url: n.URL, Events: n.Events, Secret: n.Secret, Enabled: n.Enabled, Actor: n.By.Actor, RequestID: n.By.Operation,
	})
	if err != nil {
		return Webhook{}, err
	}
	return webhook(dbgen.Webhook(row))
}

func noWebhook(w id.Webhook) *models.Error {
	return models.Errorf(models.NotFound, "there is no webhook %s", w)
}

// Webhook returns a webhook of an account, or NotFound.
func (s *Store) Webhook(ctx context.Context, account id.Account, w id.Webhook) (Webhook, error) {
	return retry(ctx, func(ctx context.Context) (Webhook, error) {
		row, err := s.q.WebhookByID(ctx, dbgen.WebhookByIDParams{ID: string(w), AccountID: string(account)})
		if err != nil {
			return Webhook{}, notFound(err, noWebhook(w))
		}
		return webhook(row)
	})
}

// Webhooks returns webhooks of an account, newest first.
func (s *Store) Webhooks(ctx context.Context, f WebhookFilter) ([]Webhook, error) {
	return retry(ctx, func(ctx context.Context) ([]Webhook, error) {
		rows, err := s.q.ListWebhooks(ctx, dbgen.ListWebhooksParams{
			AccountID: string(f.Account), Before: timeOrNil(f.Before), BeforeID: string(f.BeforeID), MaxRows: int32(f.Limit),
		})
		if err != nil {
			return nil, fmt.Errorf("list webhooks: %w", err)
		}
		return convert(rows, webhook)
	})
}

// ChangeWebhook changes a webhook of an account, with its audit event, and returns it. One that is enabled again is told of what happens from now on, and of what was to be
// sent when it was disabled. NotFound where there is none.
func (s *Store) ChangeWebhook(ctx context.Context, account id.Account, w id.Webhook, by By, c WebhookChange) (Webhook, error) {
	p := dbgen.ChangeWebhookParams{ID: string(w), AccountID: string(account), Url: c.URL, Enabled: c.Enabled, Actor: by.Actor, RequestID: by.Operation}
	if c.Events != nil {
		p.Events = append([]string{}, *c.Events...) // not nil, which means that they stay
	}
	return retry(ctx, func(ctx context.Context) (Webhook, error) {
		row, err := s.q.ChangeWebhook(ctx, p)
		if err != nil {
			return Webhook{}, notFound(err, noWebhook(w))
		}
		return webhook(dbgen.Webhook(row))
	})
}

// RotateWebhook gives a webhook of an account another secret, with its audit event, and returns it. What is sent is signed with the one of now, too, for grace. NotFound where there is none. It
// is not tried again: the secret of now would be lost.
func (s *Store) RotateWebhook(ctx context.Context, account id.Account, w id.Webhook, by By, secret []byte, grace time.Duration) (Webhook, error) {
	row, err := s.q.RotateWebhook(ctx, dbgen.RotateWebhookParams{
		ID: string(w), AccountID: string(account), Secret: secret, GraceSeconds: grace.Seconds(), Actor: by.Actor, RequestID: by.Operation,
	})
	if err != nil {
		return Webhook{}, coded(notFound(err, noWebhook(w)))
	}
	return webhook(dbgen.Webhook(row))
}

// DeleteWebhook deletes a webhook of an account and what was to be sent, with its audit event. NotFound where there is none.
func (s *Store) DeleteWebhook(ctx context.Context, account id.Account, w id.Webhook, by By) error {
	n, err := retry(ctx, func(ctx context.Context) (int64, error) {
		return s.q.DeleteWebhook(ctx, dbgen.DeleteWebhookParams{ID: string(w), AccountID: string(account), Actor: by.Actor, RequestID: by.Operation})
	})
	if err == nil && n == 0 {
		return noWebhook(w)
	}
	return err
}
