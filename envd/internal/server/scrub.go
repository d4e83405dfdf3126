package server

import (
	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// scrub is called before a guest is frozen from which others will be made. It forgets its token, what it was told and what it has run: it
// takes the /resume of whoever restores it.
func (s *Server) scrub(w http.ResponseWriter, _ *http.Request) {
	if s.opts.Scrub == nil {
		apierror.New(http.StatusNotImplemented, "this envd is not the guest's PID 1 and cannot scrub its memory").Write(w)
		return
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	s.session.Forget()
	s.processes.Forget()
	if err := s.opts.Scrub(); err != nil {
		s.opts.Logger.Error("scrub failed", "error", err)
		apierror.New(http.StatusInternalServerError, "scrub the guest's memory: %v", err).Write(w)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}
