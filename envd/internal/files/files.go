// Package files carries files in and out of the guest over plain HTTP: /files and /files/compose
// of E2B's envd protocol, and /archive and /chmod, which are ours.
//
// Everything goes as a stream, of which a fixed buffer is held at a time. Who may do it, and
// as whom, is as in package filesystem.
package files

import (
	"errors"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Handler serves all of it.
type Handler struct {
	session *session.Session
	users   user.Database
	direct  bool
}

// New returns a handler. With direct, large files go past the page cache, which is for guests: see package direct.
func New(s *session.Session, users user.Database, direct bool) *Handler {
	return &Handler{session: s, users: users, direct: direct}
}

// Mount adds the routes to mux.
func (h *Handler) Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /files", h.Download)
	mux.HandleFunc("POST /files", h.Upload)
	mux.HandleFunc("POST /files/compose", h.Compose)
	mux.HandleFunc("GET /archive", h.Pack)
	mux.HandleFunc("POST /archive", h.Unpack)
	mux.HandleFunc("POST /chmod", h.Chmod)
}

// lookup returns the account called name, or the default one.
func (h *Handler) lookup(name string) (*user.User, *apierror.Error) {
	if name == "" {
		name = h.session.Defaults().User
	}
	u, err := h.users.Lookup(name)
	if errors.Is(err, user.ErrUnknown) {
		failure := apierror.New(http.StatusUnauthorized, "error looking up user '%s': unknown user", name)
		failure.Reason = apierror.ReasonUnknownUser
		return nil, failure
	}
	if err != nil {
		return nil, apierror.New(http.StatusInternalServerError, "error looking up user '%s': %v", name, err)
	}
	return u, nil
}

// target returns the user and the path that a query names.
func (h *Handler) target(r *http.Request) (*user.User, string, *apierror.Error) {
	query := r.URL.Query()
	u, failure := h.lookup(query.Get("username"))
	if failure != nil {
		return nil, "", failure
	}
	path, failure := absolute(query.Get("path"), u)
	return u, path, failure
}
