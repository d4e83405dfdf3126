package server

import (
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
)

// signed reports whether a request has a signature where one counts.
func signed(r *http.Request) bool {
	return r.URL.Path == "/files" && r.URL.Query().Has("signature")
}

// refuseSignature returns nil if the URL is signed for what it asks, and in time. The texts are
// those that clients of the protocol look for.
func (s *Server) refuseSignature(r *http.Request) *apierror.Error {
	query := r.URL.Query()
	what := session.Signed{
		Path: query.Get("path"), Operation: "read", User: query.Get("username"),
		Expiration: query.Get("signature_expiration"),
	}
	if r.Method == http.MethodPost {
		what.Operation = "write"
	}
	expiration, err := strconv.ParseInt(what.Expiration, 10, 64)
	switch {
	case what.Expiration != "" && err != nil:
		return apierror.New(http.StatusBadRequest, "signature_expiration is not a number of seconds")
	case !s.session.SignatureValid(query.Get("signature"), what):
		return apierror.New(http.StatusUnauthorized, "invalid signature")
	case what.Expiration != "" && expiration < time.Now().Unix():
		return apierror.New(http.StatusUnauthorized, "signature is already expired")
	}
	return nil
}
