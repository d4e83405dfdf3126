package api

import (
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/webhook"
)

// deliveryView is the schema Delivery.
type deliveryView struct {
	ID          id.Message       `json:"id"`
	Type        string           `json:"type"`
	Event       *string          `json:"event_id"`
	Sandbox     *id.Sandbox      `json:"sandbox_id"`
	State       db.DeliveryState `json:"state"`
	Attempts    int              `json:"attempts"`
	Status      *int             `json:"status"`
	Error       *string          `json:"error"`
	LastAttempt apiTime          `json:"last_attempt_at"`
	NextAttempt apiTime          `json:"next_attempt_at"`
	CreatedAt   apiTime          `json:"created_at"`
}

func viewOfDelivery(d db.Delivery) deliveryView {
	v := deliveryView{
		ID: d.ID, Type: webhook.PingType, State: d.State, Attempts: d.Attempts, Status: orNull(d.Status), Error: orNull(d.Error), Sandbox: orNull(d.Sandbox),
		LastAttempt: apiTime(d.LastAt), NextAttempt: apiTime(d.NextAt), CreatedAt: apiTime(d.CreatedAt),
	}
	if d.Event != 0 {
		event := strconv.FormatInt(d.Event, 10)
		v.Type, v.Event = webhook.EventType(d.To), &event
	}
	return v
}

// deliveryStates are those that a list can be asked for.
var deliveryStates = []db.DeliveryState{db.DeliveryPending, db.Delivered, db.DeliveryFailed}

func (s *Server) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	hook, err := named(chi.URLParam(r, "id"), id.ParseWebhook)
	if err != nil {
		return err
	}
	q, err := query(r, []string{"state", "limit", "cursor"})
	if err != nil {
		return err
	}
	f, err := deliveryFilter(hook, q)
	if err != nil {
		return err
	}
	if _, err := s.Store.Webhook(r.Context(), by(r).Account, hook); err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.Deliveries(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfDelivery, func(d db.Delivery) string { return strconv.FormatInt(d.Seq, 10) }))
	return nil
}

func deliveryFilter(hook id.Webhook, q url.Values) (db.DeliveryFilter, error) {
	f := db.DeliveryFilter{Webhook: hook, State: db.DeliveryState(q.Get("state")), Before: math.MaxInt64}
	if q.Has("state") && !slices.Contains(deliveryStates, f.State) {
		return f, models.Errorf(models.Invalid, "there is no state %q of a delivery", f.State).WithHint("there are: pending, delivered, failed")
	}
	before, err := eventCursor(q)
	if err != nil {
		return f, err
	}
	if before != 0 {
		f.Before = before
	}
	f.Limit, err = limitAsked(q)
	return f, err
}

// enabledWebhook returns the webhook of a request that has something sent, which it must be enabled for.
func (s *Server) enabledWebhook(r *http.Request) (db.Webhook, error) {
	hook, err := plainWebhookID(r)
	if err != nil {
		return db.Webhook{}, err
	}
	found, err := s.Store.Webhook(r.Context(), by(r).Account, hook)
	if err == nil && !found.Enabled {
		err = models.Errorf(models.Precondition, "the webhook %s is disabled", hook).WithHint(`PATCH it with {"enabled": true} first`)
	}
	return found, err
}

func (s *Server) pingWebhook(w http.ResponseWriter, r *http.Request) error {
	hook, err := s.enabledWebhook(r)
	if err != nil {
		return err
	}
	d, err := s.Store.PingWebhook(r.Context(), hook.Account, hook.ID, dbBy(r))
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusAccepted, viewOfDelivery(d))
	return nil
}

func (s *Server) retryDelivery(w http.ResponseWriter, r *http.Request) error {
	message, err := named(chi.URLParam(r, "delivery"), id.ParseMessage)
	if err != nil {
		return err
	}
	hook, err := s.enabledWebhook(r)
	if err != nil {
		return err
	}
	d, err := s.Store.RetryDelivery(r.Context(), hook.Account, hook.ID, message, dbBy(r))
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusAccepted, viewOfDelivery(d))
	return nil
}
