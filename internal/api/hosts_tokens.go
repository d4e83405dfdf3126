package api

import (
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// usualTokenLife is that of a host's token whose request does not say.
const usualTokenLife = time.Hour

// createHostTokenRequest is the schema CreateHostToken.
type createHostTokenRequest struct {
	Host    *string `json:"host_id"`
	Expires *int    `json:"expires_in_seconds"`
}

// hostTokenView is the schema HostToken.
type hostTokenView struct {
	ID        id.HostToken `json:"id"`
	Host      *id.Host     `json:"host_id"`
	CreatedAt apiTime      `json:"created_at"`
	ExpiresAt apiTime      `json:"expires_at"`
	Token     string       `json:"token,omitempty"`
}

func viewOfHostToken(t db.HostToken) hostTokenView {
	return hostTokenView{ID: t.ID, Host: orNull(t.Host), CreatedAt: apiTime(t.CreatedAt), ExpiresAt: apiTime(t.ExpiresAt)}
}

func (s *Server) createHostToken(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var in createHostTokenRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	host, life, err := in.asked()
	if err != nil {
		return err
	}
	token, kept, err := s.Controller.Fleet.NewToken(r.Context(), s.Store, host, dbBy(r), life)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", noStore)
	v := viewOfHostToken(kept)
	v.Token = string(token)
	s.writeJSON(w, http.StatusCreated, v)
	return nil
}

// asked returns which host may use the token, empty for a new one, and for how long.
func (in createHostTokenRequest) asked() (host id.Host, life time.Duration, err error) {
	if in.Host != nil {
		if host, err = named(*in.Host, id.ParseHost); err != nil {
			return "", 0, err
		}
	}
	if in.Expires == nil {
		return host, usualTokenLife, nil
	}
	if most := int(controller.MaxTokenLife / time.Second); *in.Expires < 1 || *in.Expires > most {
		return "", 0, models.Errorf(models.Invalid, "expires_in_seconds must be between 1 and %d, not %d", most, *in.Expires)
	}
	return host, time.Duration(*in.Expires) * time.Second, nil
}

func (s *Server) listHostTokens(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"limit", "cursor"})
	if err != nil {
		return err
	}
	var page db.HostTokenPage
	if page.Limit, page.Before, page.BeforeID, err = pageAsked(q, id.ParseHostToken); err != nil {
		return err
	}
	most := page.Limit
	page.Limit++ // see pageOf
	found, err := s.Store.HostTokens(r.Context(), page)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfHostToken, func(t db.HostToken) string { return encodeCursor(t.CreatedAt, t.ID) }))
	return nil
}

func (s *Server) revokeHostToken(w http.ResponseWriter, r *http.Request) error {
	t, err := plain(r, id.ParseHostToken)
	if err != nil {
		return err
	}
	if err := s.Store.RevokeHostToken(r.Context(), t, dbBy(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
