package server

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
)

const headerToken = "X-Access-Token"

// connection is what the server remembers of a connection: the generation of the token under which
// it was authorized, 0 for not at all. Another token leaves it unauthorized.
type connection struct{ authorized atomic.Uint64 }

type connectionKey struct{}

// remember is the http.Server's ConnContext.
func remember(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// connectionOf returns the connection of a request, or one that lasts as long as the request where there is none.
func connectionOf(r *http.Request) *connection {
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		return c
	}
	return &connection{}
}

// authorizeConnection makes the token that it carries hold for all that follows in its connection, until
// another token is set: the host can hand the connection on without the token.
func (s *Server) authorizeConnection(w http.ResponseWriter, r *http.Request) {
	if generation := s.session.Authorize(r.Header.Get(headerToken)); generation != 0 {
		connectionOf(r).authorized.Store(generation)
	}
	w.WriteHeader(http.StatusNoContent)
}

// authorize lets through what carries the token, or comes in a connection that is authorized. Without a token
// set, it lets through the /init that will set it, and in development everything.
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
		if !s.authorized(r) {
			return apierror.New(http.StatusUnauthorized, "unauthorized access, please provide a valid access token")
		}
		return nil
	case s.opts.Debug || r.URL.Path == "/init":
		return nil
	}
	return apierror.New(http.StatusUnauthorized, "envd is not initialized")
}

// authorized trusts the connection where the request carries no token. Only with the token itself can
// another one be set: whoever was handed a connection cannot lock the host out.
func (s *Server) authorized(r *http.Request) bool {
	if token := r.Header.Get(headerToken); token != "" || r.URL.Path == "/init" {
		return s.session.Authorize(token) != 0
	}
	return connectionOf(r).authorized.Load() == s.session.Generation()
}
