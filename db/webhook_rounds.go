package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// LeasedWebhook is a webhook that one replica sends to until its lease has ended.
type LeasedWebhook struct {
	Webhook
	lease string
}

// Message is what is to be sent to a webhook.
type Message struct {
	ID       id.Message
	Event    *Event // nil for a ping
	Attempts int    // that were made before
	At       time.Time
}

// AnyWebhook tells whether there is a webhook that is enabled.
func (s *Store) AnyWebhook(ctx context.Context) (bool, error) {
	there, err := s.q.AnyWebhook(ctx)
	return there, coded(err)
}

// ClaimWebhooks returns up to most webhooks that there is something to send to, of events up to horizon too. Nobody else gets them before the lease has ended or was released.
func (s *Store) ClaimWebhooks(ctx context.Context, horizon int64, most int, lease time.Duration) ([]LeasedWebhook, error) {
	name := string(id.NewRequest())
	rows, err := s.q.ClaimWebhooks(ctx, dbgen.ClaimWebhooksParams{Lease: &name, LeaseSeconds: lease.Seconds(), Horizon: horizon, MaxRows: int32(most)})
	if err != nil {
		return nil, fmt.Errorf("claim webhooks: %w", coded(err))
	}
	return convert(rows, func(r dbgen.Webhook) (LeasedWebhook, error) {
		w, err := webhook(r)
		return LeasedWebhook{Webhook: w, lease: name}, err
	})
}

// StillLeased returns a webhook as it is now; false when its lease was lost, or it was disabled or deleted.
func (s *Store) StillLeased(ctx context.Context, w LeasedWebhook) (LeasedWebhook, bool, error) {
	row, err := s.q.LeasedWebhook(ctx, dbgen.LeasedWebhookParams{ID: string(w.ID), Lease: w.lease})
	if errors.Is(err, pgx.ErrNoRows) {
		return w, false, nil
	}
	if err != nil {
		return w, false, fmt.Errorf("look at %s: %w", w.ID, coded(err))
	}
	now, err := webhook(row)
	return LeasedWebhook{Webhook: now, lease: w.lease}, true, err
}

// ReleaseWebhook ends a lease.
func (s *Store) ReleaseWebhook(ctx context.Context, w LeasedWebhook) error {
	return coded(s.q.ReleaseWebhook(ctx, dbgen.ReleaseWebhookParams{ID: string(w.ID), Lease: w.lease}))
}

// QueueDeliveries takes up to most events, up to horizon, into what is to be sent to a webhook, unless maxPending are there already, and tells whether there may be more.
func (s *Store) QueueDeliveries(ctx context.Context, w LeasedWebhook, horizon int64, most, maxPending int) (more bool, err error) {
	n, err := s.q.QueueDeliveries(ctx, dbgen.QueueDeliveriesParams{
		ID: string(w.ID), Lease: w.lease, Horizon: horizon, MaxRows: int32(most), MaxPending: int64(maxPending),
	})
	if err != nil {
		return false, fmt.Errorf("queue events for %s: %w", w.ID, coded(err))
	}
	return n == int64(most), nil
}

// NextMessages returns up to most messages that can be sent to a webhook now: of each sandbox at most one, the first that was not delivered.
func (s *Store) NextMessages(ctx context.Context, w LeasedWebhook, most int) ([]Message, error) {
	rows, err := s.q.NextDeliveries(ctx, dbgen.NextDeliveriesParams{WebhookID: string(w.ID), MaxRows: int32(most)})
	if err != nil {
		return nil, fmt.Errorf("look for what to send to %s: %w", w.ID, coded(err))
	}
	return convert(rows, func(r dbgen.NextDeliveriesRow) (Message, error) {
		m := Message{ID: id.Message(r.ID), Attempts: int(r.Attempts), At: r.CreatedAt}
		if r.EventID != nil {
			m.Event = &Event{
				ID: *r.EventID, Sandbox: id.Sandbox(valueOf(r.SandboxID)), From: valueOf(r.FromState), To: valueOf(r.ToState), Reason: valueOf(r.Reason),
				Actor: valueOf(r.Actor), Operation: valueOf(r.Operation), Generation: valueOf(r.Generation), At: valueOf(r.At),
			}
			m.At = m.Event.At
		}
		return m, nil
	})
}

// NoteDelivered writes down that a message was taken.
func (s *Store) NoteDelivered(ctx context.Context, m Message, status int) error {
	code := int32(status)
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.NoteDelivered(ctx, dbgen.NoteDeliveredParams{ID: string(m.ID), Status: &code})
	})
	return err
}

// Attempt is one that has failed.
type Attempt struct {
	Status int           // of the answer; 0 for none
	Error  string        // for users
	Wait   time.Duration // until the next
	GiveUp time.Duration // after the first attempt, that there are no more
	Gone   bool          // the receiver wants no more, at all
}

// NoteNotDelivered writes down that an attempt to send a message has failed.
func (s *Store) NoteNotDelivered(ctx context.Context, m Message, a Attempt) error {
	p := dbgen.NoteNotDeliveredParams{
		ID: string(m.ID), Attempts: int32(m.Attempts), Error: a.Error, WaitSeconds: a.Wait.Seconds(), GiveUpSeconds: a.GiveUp.Seconds(),
	}
	if a.Status != 0 {
		status := int32(a.Status)
		p.Status = &status
	}
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.q.NoteNotDelivered(ctx, p) })
	return err
}

// NoteWebhookWorks writes down that something was delivered to a webhook that had failed.
func (s *Store) NoteWebhookWorks(ctx context.Context, w LeasedWebhook) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.NoteWebhookWorks(ctx, dbgen.NoteWebhookWorksParams{ID: string(w.ID), Lease: w.lease})
	})
	return err
}

// NoteWebhookFails writes down that a webhook fails, and has it sent nothing for a while. One that has failed for longer than a.GiveUp is disabled, with an audit event.
func (s *Store) NoteWebhookFails(ctx context.Context, w LeasedWebhook, a Attempt) error {
	return coded(s.q.NoteWebhookFails(ctx, dbgen.NoteWebhookFailsParams{
		ID: string(w.ID), Lease: w.lease, RequestID: w.lease, Gone: a.Gone, GiveUpSeconds: a.GiveUp.Seconds(), Failure: a.Error, WaitSeconds: a.Wait.Seconds(),
	}))
}
