package server

import (
	"encoding/json"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(HeaderVersion, s.opts.Version)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) envs(w http.ResponseWriter, _ *http.Request) {
	env := s.session.Defaults().Env
	if env == nil {
		env = map[string]string{}
	}
	writeJSON(w, env)
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	m, err := s.stat.measure()
	if err != nil {
		apierror.New(http.StatusInternalServerError, "measure: %v", err).Write(w)
		return
	}
	writeJSON(w, m)
}

// shutdown answers before the end begins, since afterwards there may be nobody to do it.
func (s *Server) shutdown(w http.ResponseWriter, _ *http.Request) {
	if s.opts.Shutdown == nil {
		apierror.New(http.StatusNotImplemented, "this envd is not the guest's PID 1 and cannot shut it down").Write(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
	_ = http.Flush(w) // a host that does not hear it sees the guest end
	s.opts.Shutdown("asked by the host")
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(value) // the caller is gone if this fails
}
