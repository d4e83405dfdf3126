package server

import (
	"context"
	"sync/atomic"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
)

const headerToken = "X-Access-Token"

// connection is what is known of a connection to the server.
type connection struct {
	grant atomic.Uint64 // the session.Grant of an authorized one
}

type connectionKey struct{}

// remember gives each connection's requests a place for what is known of it.
func remember(ctx context.Context) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// authorizeConnection lets the connection's later requests do without the token, until that changes. The host
// does so before it lets somebody else speak on the connection, who must not learn the token.
func (s *Server) authorizeConnection(w http.ResponseWriter, r *http.Request) {
	conn, ok := r.Context().Value(connectionKey{}).(*connection)
	grant, authorized := s.session.Authorize(r.Header.Get(headerToken))
	if ok && authorized {
		conn.grant.Store(uint64(grant))
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// granted reports whether the request came on a connection that was authorized.
func (s *Server) granted(r *http.Request) bool {
	conn, ok := r.Context().Value(connectionKey{}).(*connection)
	return ok && s.session.Valid(session.Grant(conn.grant.Load()))
}

// authorize lets through what refuse does not refuse. Without a token set, that is the /init or /resume that will
// set it, and a /scrub before; in development it is everything.
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
		return s.refuseCaller(r)
	case s.opts.Debug || isTakeover(r):
		return nil
	}
	return apierror.New(http.StatusUnauthorized, "envd is not initialized")
}

// isTakeover reports whether a request sets the token, or prepares the guest for who will.
func isTakeover(r *http.Request) bool {
	return r.URL.Path == "/init" || r.URL.Path == "/resume" || r.URL.Path == "/scrub"
}

// refuseCaller returns nil for who sends the token, or has sent it on this connection, or has a signature that
// was made with it. What is sent is checked, also where the connection alone would do.
func (s *Server) refuseCaller(r *http.Request) *apierror.Error {
	_, authorized := s.session.Authorize(r.Header.Get(headerToken))
	switch {
	case authorized:
		return nil
	case len(r.Header.Values(headerToken)) > 0:
	case signed(r):
		return s.refuseSignature(r)
	case s.granted(r) && !isTakeover(r): // who was handed a connection cannot lock the host out with another token
		return nil
	case r.URL.Path == "/files":
		return apierror.New(http.StatusUnauthorized, "missing signature query parameter")
	}
	return apierror.New(http.StatusUnauthorized, "unauthorized access, please provide a valid access token")
}
