package db

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// DeliveryState is what has become of a delivery. The values equal those of the API.
type DeliveryState string

// The states of deliveries.
const (
	DeliveryPending DeliveryState = "pending"
	Delivered       DeliveryState = "delivered"
	DeliveryFailed  DeliveryState = "failed" // it was given up
)

// Delivery is what is sent to a webhook.
type Delivery struct {
	Seq       int64 // grows
	ID        id.Message
	Event     int64        // 0 for a ping
	Sandbox   id.Sandbox   // of the event
	To        models.State // likewise
	State     DeliveryState
	Attempts  int
	Status    int    // of the last answer; 0 where there was none
	Error     string // of the last attempt
	LastAt    time.Time
	NextAt    time.Time // zero for no more attempt
	CreatedAt time.Time
}

func delivery(r dbgen.ListDeliveriesRow) (Delivery, error) {
	d := Delivery{
		Seq: r.Seq, ID: id.Message(r.ID), State: DeliveryState(r.State), Attempts: int(r.Attempts), Error: r.Error,
		LastAt: orZero(r.LastAt), NextAt: orZero(r.NextAt), CreatedAt: r.CreatedAt,
		Event: valueOf(r.EventID), Sandbox: id.Sandbox(valueOf(r.SandboxID)), To: valueOf(r.ToState), Status: int(valueOf(r.Status)),
	}
	return d, nil
}

// valueOf is zero for null.
func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// DeliveryFilter chooses deliveries of a webhook.
type DeliveryFilter struct {
	Webhook id.Webhook
	State   DeliveryState // "" for all
	Before  int64         // only those with smaller Seq
	Limit   int
}

// Deliveries returns deliveries of a webhook, newest first.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) ([]Delivery, error) {
	return retry(ctx, func(ctx context.Context) ([]Delivery, error) {
		rows, err := s.q.ListDeliveries(ctx, dbgen.ListDeliveriesParams{WebhookID: string(f.Webhook), State: orNil(f.State), Before: f.Before, MaxRows: int32(f.Limit)})
		if err != nil {
			return nil, fmt.Errorf("list deliveries of %s: %w", f.Webhook, err)
		}
		return convert(rows, delivery)
	})
}

// PingWebhook has a message without an event sent to a webhook of an account, with an audit event, and returns it. NotFound where there is no webhook.
func (s *Store) PingWebhook(ctx context.Context, account id.Account, w id.Webhook, by By) (Delivery, error) {
	message := id.NewMessage()
	return retry(ctx, func(ctx context.Context) (Delivery, error) {
		_, err := s.q.InsertPing(ctx, dbgen.InsertPingParams{
			ID: string(message), WebhookID: string(w), AccountID: string(account), Actor: by.Actor, RequestID: by.Operation,
		})
		if err != nil && !isUnique(err) { // which it is when the answer to an earlier try was lost
			return Delivery{}, notFound(err, noWebhook(w))
		}
		return s.delivery(ctx, w, message)
	})
}

// RetryDelivery has a delivery of an account's webhook sent again, at once, whatever has become of it, with an audit event, and returns it. NotFound where there is none.
func (s *Store) RetryDelivery(ctx context.Context, account id.Account, w id.Webhook, m id.Message, by By) (Delivery, error) {
	return retry(ctx, func(ctx context.Context) (Delivery, error) {
		_, err := s.q.RetryDelivery(ctx, dbgen.RetryDeliveryParams{
			ID: string(m), WebhookID: string(w), AccountID: string(account), Actor: by.Actor, RequestID: by.Operation,
		})
		if err != nil {
			return Delivery{}, notFound(err, noDelivery(w, m))
		}
		return s.delivery(ctx, w, m)
	})
}

func noDelivery(w id.Webhook, m id.Message) *models.Error {
	return models.Errorf(models.NotFound, "there is no delivery %s of %s", m, w).WithHint("those that have ended are forgotten after a week")
}

func (s *Store) delivery(ctx context.Context, w id.Webhook, m id.Message) (Delivery, error) {
	row, err := s.q.DeliveryByID(ctx, dbgen.DeliveryByIDParams{ID: string(m), WebhookID: string(w)})
	if err != nil {
		return Delivery{}, notFound(err, noDelivery(w, m))
	}
	return delivery(dbgen.ListDeliveriesRow(row))
}

// SweepDeliveries forgets up to most deliveries that ended longer ago than keep, and returns how many.
func (s *Store) SweepDeliveries(ctx context.Context, keep time.Duration, most int) (int, error) {
	n, err := s.q.SweepDeliveries(ctx, dbgen.SweepDeliveriesParams{KeepSeconds: keep.Seconds(), MaxRows: int32(most)})
	return int(n), coded(err)
}
