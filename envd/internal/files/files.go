// Package files serves /files of E2B's envd protocol: files in the guest go in and out as
// streams, of which a fixed buffer is held at a time.
//
// envd is root and does not check permissions: whoever holds the sandbox's token may also run
// any program as root. The user that a request names says where relative paths begin and to whom what
// is made belongs.
package files

import (
	"errors"
	"net/http"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Handler serves uploads and downloads.
type Handler struct {
	session *session.Session
	users   user.Database
}

// New returns a handler.
func New(s *session.Session, users user.Database) *Handler {
	return &Handler{session: s, users: users}
}

// user returns the account that the query names, or the default one.
func (h *Handler) user(r *http.Request) (*user.User, *apierror.Error) {
	name := r.URL.Query().Get("username")
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
