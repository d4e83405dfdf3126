package http

import (
	"log/slog"
	"runtime/debug"
	"time"
)

// Service is how a connection is served, in either version.
type Service struct {
	Handler Handler
	// HeaderTimeout is how long a request's head may take, and the first one of a connection to come.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may be without a request after the first.
	IdleTimeout time.Duration
	// MaxHeader is how many bytes a request's head may have.
	MaxHeader int
	Logger    *slog.Logger
}

// MaxFields is how many fields a request's head may have.
const MaxFields = 256

// Answer has r answered, to its end. It reports false if the answer was broken off.
func (s *Service) Answer(w *Response, r *Request) (whole bool) {
	defer func() {
		if reason := recover(); reason != nil && reason != any(ErrAbortHandler) {
			s.Logger.Error("a handler panicked", "path", r.URL.Path, "reason", reason, "stack", string(debug.Stack()))
		}
	}()
	s.Handler.ServeHTTP(w, r)
	return true
}
