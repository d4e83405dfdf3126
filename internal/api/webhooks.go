package api

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/webhook"
)

// maxSecretGrace is the longest that what is sent is also signed with the secret before a rotation.
const maxSecretGrace = 7 * 24 * time.Hour

// webhookView is the schema Webhook.
type webhookView struct {
	ID           id.Webhook `json:"id"`
	URL          string     `json:"url"`
	Events       []string   `json:"events"`
	Enabled      bool       `json:"enabled"`
	State        string     `json:"state"`
	Failure      *string    `json:"failure"`
	FailingSince apiTime    `json:"failing_since"`
	NextAttempt  apiTime    `json:"next_attempt_at"`
	OldUntil     apiTime    `json:"old_secret_until"`
	CreatedAt    apiTime    `json:"created_at"`
	Secret       string     `json:"secret,omitempty"`
}

func viewOfWebhook(w db.Webhook) webhookView {
	v := webhookView{
		ID: w.ID, URL: w.URL, Events: w.Events, Enabled: w.Enabled, State: "active", Failure: orNull(w.Failure), FailingSince: apiTime(w.FailingSince),
		OldUntil: apiTime(w.OldUntil), CreatedAt: apiTime(w.CreatedAt),
	}
	switch {
	case !w.Enabled:
		v.State = "disabled"
	case w.Failures > 0:
		v.State, v.NextAttempt = "failing", apiTime(w.RetryAt)
	}
	return v
}

// EncodeEvent returns an event in the form that it has everywhere.
func EncodeEvent(e db.Event) any { return viewOfEvent(e) }

// dbBy returns who asks, for the database.
func dbBy(r *http.Request) db.By {
	b := by(r)
	return db.By{Actor: string(b.Key), Operation: string(b.Request)}
}

// writeWebhook answers with a webhook and its secret, which nobody on the way may keep.
func (s *Server) writeWebhook(w http.ResponseWriter, status int, hook db.Webhook) {
	w.Header().Set("Cache-Control", noStore)
	v := viewOfWebhook(hook)
	v.Secret = webhook.SecretText(hook.Secret)
	s.writeJSON(w, status, v)
}

// createWebhookRequest is the schema CreateWebhook.
type createWebhookRequest struct {
	URL     string   `json:"url"`
	Events  []string `json:"events"`
	Enabled *bool    `json:"enabled"`
}

func (s *Server) createWebhook(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var in createWebhookRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	if in.URL == "" {
		return models.Errorf(models.Invalid, "url is required")
	}
	if err := webhook.CheckURL(in.URL, s.WebhookNetworks); err != nil {
		return err
	}
	types, err := eventTypes(in.Events)
	if err != nil {
		return err
	}
	made, err := s.Store.CreateWebhook(r.Context(), db.NewWebhook{
		ID: id.NewWebhook(), Account: by(r).Account, URL: in.URL, Events: types, Secret: webhook.NewSecret(), Enabled: in.Enabled == nil || *in.Enabled, By: dbBy(r),
	})
	if err != nil {
		return err
	}
	s.writeWebhook(w, http.StatusCreated, made)
	return nil
}

// eventTypes checks the types of events that a webhook is told of; it is never nil.
func eventTypes(asked []string) ([]string, error) {
	types := []string{}
	for _, t := range asked {
		if !slices.ContainsFunc(states, func(s models.State) bool { return webhook.EventType(s) == t }) {
			return nil, models.Errorf(models.Invalid, "there is no event %q", t).WithHint("there are: %s", strings.Join(allEventTypes(), ", "))
		}
		if !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	return types, nil
}

func allEventTypes() []string {
	all := make([]string, len(states))
	for i, s := range states {
		all[i] = webhook.EventType(s)
	}
	return all
}

// plainWebhookID returns the webhook of a request that has no query.
func plainWebhookID(r *http.Request) (id.Webhook, error) { return plain(r, id.ParseWebhook) }

func (s *Server) getWebhook(w http.ResponseWriter, r *http.Request) error {
	hook, err := plainWebhookID(r)
	if err != nil {
		return err
	}
	found, err := s.Store.Webhook(r.Context(), by(r).Account, hook)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfWebhook(found))
	return nil
}

func (s *Server) listWebhooks(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"limit", "cursor"})
	if err != nil {
		return err
	}
	f := db.WebhookFilter{Account: by(r).Account}
	if f.Limit, f.Before, f.BeforeID, err = pageAsked(q, id.ParseWebhook); err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.Webhooks(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfWebhook, func(h db.Webhook) string { return encodeCursor(h.CreatedAt, h.ID) }))
	return nil
}

// changeWebhookRequest is the schema ChangeWebhook.
type changeWebhookRequest struct {
	URL     *string   `json:"url"`
	Events  *[]string `json:"events"`
	Enabled *bool     `json:"enabled"`
}

func (s *Server) changeWebhook(w http.ResponseWriter, r *http.Request) error {
	hook, err := plainWebhookID(r)
	if err != nil {
		return err
	}
	var in changeWebhookRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	c := db.WebhookChange{URL: in.URL, Enabled: in.Enabled}
	if in.URL == nil && in.Events == nil && in.Enabled == nil {
		return models.Errorf(models.Invalid, "the request changes nothing").WithHint("there are: url, events, enabled")
	}
	if in.URL != nil {
		if err := webhook.CheckURL(*in.URL, s.WebhookNetworks); err != nil {
			return err
		}
	}
	if in.Events != nil {
		types, err := eventTypes(*in.Events)
		if err != nil {
			return err
		}
		c.Events = &types
	}
	changed, err := s.Store.ChangeWebhook(r.Context(), by(r).Account, hook, dbBy(r), c)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfWebhook(changed))
	return nil
}

func (s *Server) rotateWebhook(w http.ResponseWriter, r *http.Request) error {
	hook, err := plainWebhookID(r)
	if err != nil {
		return err
	}
	var in struct {
		Grace int `json:"grace_seconds"`
	}
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	if in.Grace < 0 || in.Grace > int(maxSecretGrace/time.Second) {
		return models.Errorf(models.Invalid, "grace_seconds must be between 0 and %d, not %d", int(maxSecretGrace/time.Second), in.Grace)
	}
	now, err := s.Store.RotateWebhook(r.Context(), by(r).Account, hook, dbBy(r), webhook.NewSecret(), time.Duration(in.Grace)*time.Second)
	if err != nil {
		return err
	}
	s.writeWebhook(w, http.StatusOK, now)
	return nil
}

func (s *Server) deleteWebhook(w http.ResponseWriter, r *http.Request) error {
	hook, err := plainWebhookID(r)
	if err != nil {
		return err
	}
	if err := s.Store.DeleteWebhook(r.Context(), by(r).Account, hook, dbBy(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
