package api

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// usualTokenLife is that of a host's token whose request does not say.
const usualTokenLife = time.Hour

// drainHost writes down what is wanted of a host; whichever replica reconciles sees to it.
func (s *Server) drainHost(w http.ResponseWriter, r *http.Request) error {
	h, err := plain(r, id.ParseHost)
	if err != nil {
		return err
	}
	var in struct {
		Evict bool `json:"evict"`
	}
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	if err := s.Store.SetDraining(r.Context(), h, dbBy(r), true, in.Evict); err != nil {
		return err
	}
	return s.writeHost(w, r, h)
}

func (s *Server) undrainHost(w http.ResponseWriter, r *http.Request) error {
	h, err := plain(r, id.ParseHost)
	if err != nil {
		return err
	}
	if err := s.Store.SetDraining(r.Context(), h, dbBy(r), false, false); err != nil {
		return err
	}
	return s.writeHost(w, r, h)
}

func (s *Server) removeHost(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"force"})
	if err != nil {
		return err
	}
	force, err := boolean(q, "force")
	if err != nil {
		return err
	}
	h, err := named(chi.URLParam(r, "id"), id.ParseHost)
	if err != nil {
		return err
	}
	if err := s.Store.RemoveHost(r.Context(), h, dbBy(r), force); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// createHostTokenRequest is the schema CreateHostToken.
type createHostTokenRequest struct {
	Host    *string `json:"host_id"`
	Expires *int    `json:"expires_in_seconds"`
}

// hostTokenView is the schema HostToken.
type hostTokenView struct {
	ID        string   `json:"id"`
	Token     string   `json:"token"`
	Host      *id.Host `json:"host_id"`
	ExpiresAt apiTime  `json:"expires_at"`
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
	s.writeJSON(w, http.StatusCreated, hostTokenView{ID: kept.ID, Token: string(token), Host: orNull(kept.Host), ExpiresAt: apiTime(kept.ExpiresAt)})
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
