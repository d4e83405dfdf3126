package api

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

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
