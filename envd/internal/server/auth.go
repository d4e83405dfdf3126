package server

import (
	"net/http"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
)

const headerToken = "X-Access-Token"

// authorize lets through what carries the token. Without one set, it lets through the /init
// that will set it, and in development everything.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusal := s.refuse(r); refusal != nil {
			refusal.Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) refuse(r *http.Request) *apierror.Error {
	switch {
	case r.URL.Path == "/health":
		return nil
	case s.session.HasToken():
		if !s.session.Authorized(r.Header.Get(headerToken)) {
			return apierror.New(http.StatusUnauthorized, "unauthorized access, please provide a valid access token")
		}
		return nil
	case s.opts.Debug || r.URL.Path == "/init":
		return nil
	}
	return apierror.New(http.StatusUnauthorized, "envd is not initialized")
}
