// Package caller reads what the headers of a Connect call say about who makes it and how.
package caller

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// User returns the account that a call is made as: that of its Basic authorization (RFC 7617), whose password
// means nothing, or else the one called fallback. The error is a *connect.Error.
func User(header http.Header, users user.Database, fallback string) (*user.User, error) {
	name, err := basicUser(header.Get("Authorization"))
	if err != nil {
		return nil, connect.Errorf(connect.Unauthenticated, "%v", err)
	}
	if name == "" {
		name = fallback
	}
	u, err := users.Lookup(name)
	if errors.Is(err, user.ErrUnknown) {
		unknown := connect.Errorf(connect.Unauthenticated, "invalid username: '%s'", name)
		unknown.Header = http.Header{apierror.HeaderReason: {apierror.ReasonUnknownUser}}
		return nil, unknown
	}
	if err != nil {
		return nil, connect.Errorf(connect.Internal, "%v", err)
	}
	return u, nil
}

func basicUser(authorization string) (string, error) {
	scheme, credentials, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", nil
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credentials))
	if err != nil {
		return "", errors.New("the Authorization header is not valid base64")
	}
	name, _, _ := strings.Cut(string(plain), ":")
	return name, nil
}

// defaultKeepalive is the protocol's; a call may ask for 1 s to maxKeepalive.
const defaultKeepalive, maxKeepalive = 90 * time.Second, time.Hour

// Keepalive returns how long a stream may be silent before a keepalive is sent.
func Keepalive(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Keepalive-Ping-Interval"))
	if err != nil || seconds < 1 || seconds > int(maxKeepalive/time.Second) {
		return defaultKeepalive
	}
	return time.Duration(seconds) * time.Second
}
