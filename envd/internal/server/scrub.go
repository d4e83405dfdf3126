package server

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// scrub is called before a guest is frozen from which others will be made.
func (s *Server) scrub(w http.ResponseWriter, _ *http.Request) {
	s.ready(w, "scrub the guest's memory", s.opts.Scrub)
}

// hangupAfter is how long after a /forget its host is hung up on, which has had the answer by then.
const hangupAfter = 100 * time.Millisecond

// forget is called after a scrub, when the guest has been exercised: it has no owner then, and takes the /resume of whoever restores it. It also has no
// connections, which each guest made from it would have to end first; should it be frozen before that, such a guest ends these, and not those of its own host.
func (s *Server) forget(w http.ResponseWriter, _ *http.Request) {
	if s.ready(w, "write what waits for the disk", s.opts.Sync, s.session.Forget, s.processes.Forget) {
		time.AfterFunc(hangupAfter, s.http.Hangup())
	}
}

// ready does a part of what makes a guest one that others are made from, and reports whether it did.
func (s *Server) ready(w http.ResponseWriter, what string, do func() error, before ...func()) bool {
	if do == nil {
		apierror.New(http.StatusNotImplemented, "this envd is not the guest's PID 1 and cannot %s", what).Write(w)
		return false
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	for _, f := range before {
		f()
	}
	if err := do(); err != nil {
		s.opts.Logger.Error("a guest is not made ready for others", "error", err)
		apierror.New(http.StatusInternalServerError, "%s: %v", what, err).Write(w)
		return false
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return true
}
