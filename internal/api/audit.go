package api

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// auditView is the schema AuditEvent.
type auditView struct {
	ID        int64   `json:"id"`
	Actor     string  `json:"actor"`
	Action    string  `json:"action"`
	Target    string  `json:"target"`
	Outcome   string  `json:"outcome"`
	RequestID string  `json:"request_id"`
	At        apiTime `json:"at"`
}

func viewOfAudit(e db.AuditEvent) auditView {
	return auditView{ID: e.ID, Actor: e.Actor, Action: e.Action, Target: e.Target, Outcome: e.Outcome, RequestID: e.RequestID, At: apiTime(e.At)}
}

func (s *Server) listAudit(w http.ResponseWriter, r *http.Request) error {
	f, err := auditFilter(r)
	if err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.Audit(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfAudit, func(e db.AuditEvent) string { return strconv.FormatInt(e.ID, 10) }))
	return nil
}

func auditFilter(r *http.Request) (db.AuditFilter, error) {
	q, err := query(r, []string{"actor", "action", "target", "outcome", "request_id", "since", "until", "limit", "cursor"})
	if err != nil {
		return db.AuditFilter{}, err
	}
	f := db.AuditFilter{
		Account: by(r).Account, Actor: q.Get("actor"), Action: q.Get("action"), Target: q.Get("target"), Outcome: q.Get("outcome"), RequestID: q.Get("request_id"),
	}
	for _, name := range []string{"actor", "action", "target", "outcome", "request_id"} {
		if err := checkText(name, q.Get(name), maxName); err != nil {
			return f, err
		}
	}
	if f.Since, err = timeAsked(q, "since"); err != nil {
		return f, err
	}
	if f.Until, err = timeAsked(q, "until"); err != nil {
		return f, err
	}
	if f.Limit, err = limitAsked(q); err != nil {
		return f, err
	}
	if q.Has("cursor") {
		if f.Before, err = strconv.ParseInt(q.Get("cursor"), 10, 64); err != nil || f.Before <= 0 {
			return f, foreignCursor()
		}
	}
	return f, nil
}

// timeAsked returns the time that a query parameter says, zero where it is not there.
func timeAsked(q url.Values, name string) (time.Time, error) {
	if !q.Has(name) {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, q.Get(name))
	if err != nil || at.Year() < 1 {
		return time.Time{}, models.Errorf(models.Invalid, "%s must be a time such as 2026-01-02T03:04:05Z", name)
	}
	return at, nil
}
