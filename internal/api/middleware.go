package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const requestIDHeader = "X-Request-Id"

// foreignID is what a request may bring as its id: nothing that could confuse a log.
var foreignID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// identify gives every request an id, its own if it has a good one.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &about{requestID: r.Header.Get(requestIDHeader)}
		if !foreignID.MatchString(a.requestID) {
			a.requestID = string(id.NewRequest())
		}
		w.Header().Set(requestIDHeader, a.requestID)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), aboutKey{}, a)))
	})
}

// logAccess writes one line a request. It knows no header and no query: keys travel in
// headers, and clients put secrets into queries.
func (s *Server) logAccess(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() { //nolint:contextcheck // r has it. Runs also when a handler aborts the connection
			a := aboutOf(r.Context())
			level := slog.LevelInfo
			attrs := []any{
				"request_id", a.requestID, "method", r.Method, "path", r.URL.Path, "status", rec.Status(),
				"bytes", rec.BytesWritten(), "ms", float64(time.Since(began).Microseconds()) / 1000,
				"key_id", string(a.principal.Key), "account_id", string(a.principal.Account),
			}
			if a.cause != nil {
				attrs = append(attrs, "error", a.cause)
			}
			// A bad gateway is a sandbox's server, and no fault of ours; without a client nobody missed anything.
			if s := rec.Status(); s >= http.StatusInternalServerError && s != http.StatusBadGateway && r.Context().Err() == nil {
				level = slog.LevelError
			}
			s.Log.Log(r.Context(), level, "request", attrs...)
			s.Meter.observe(r, rec.Status(), rec.Header(), time.Since(began))
		}()
		next.ServeHTTP(rec, r)
	})
}

// recoverPanic turns a panic into an error that tells the client nothing of it. When the
// answer has begun, the connection is cut, so that it cannot be taken for a whole one.
func (s *Server) recoverPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { //nolint:contextcheck // r has it
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.Log.ErrorContext(r.Context(), "panic in a request", "request_id", aboutOf(r.Context()).requestID, "panic", v, "stack", string(debug.Stack()))
			if rec, ok := w.(middleware.WrapResponseWriter); ok && rec.Status() != 0 {
				panic(http.ErrAbortHandler)
			}
			s.writeError(w, r, fmt.Errorf("panic: %v", v))
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) authenticate(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		p, err := s.principal(r)
		if err == nil {
			err = permit(r, p)
		}
		if err != nil {
			return err
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// principal returns whose API key a request has, and remembers it.
func (s *Server) principal(r *http.Request) (auth.Principal, error) {
	if keys := r.Header.Values(auth.Header); len(keys) > 1 {
		return auth.Principal{}, models.Errorf(models.Unauthenticated, "the request has more than one API key")
	}
	p, err := s.Auth.Authenticate(r.Context(), auth.Secret(r.Header.Get(auth.Header)))
	aboutOf(r.Context()).principal = p
	return p, err
}

// by returns who asks, for the controller.
func by(r *http.Request) controller.By {
	a := aboutOf(r.Context())
	return controller.By{Account: a.principal.Account, Key: a.principal.Key, Request: id.Request(a.requestID), Claim: a.claim}
}

func noRoute(_ http.ResponseWriter, r *http.Request) error { return nothingHere(r) }

func nothingHere(r *http.Request) error {
	return models.Errorf(models.NotFound, "there is no %s here", r.URL.Path).
		WithHint("GET /openapi.yaml lists what there is")
}

func wrongMethod(w http.ResponseWriter, r *http.Request) error {
	path := routePath(r)
	var possible []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if chi.RouteContext(r.Context()).Routes.Match(chi.NewRouteContext(), m, path) {
			possible = append(possible, m)
		}
	}
	allow := strings.Join(possible, ", ")
	w.Header().Set("Allow", allow)
	return withStatus(http.StatusMethodNotAllowed,
		models.Errorf(models.Invalid, "%s is not possible here", r.Method).WithHint("possible: %s", allow))
}
