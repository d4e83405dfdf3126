package session

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// Signed is what a signature of a URL of /files stands for: leave for one operation at one path as one user,
// all as the URL has them.
type Signed struct {
	Path       string
	Operation  string // "read" or "write"
	User       string // empty: the default user
	Expiration string // in seconds since 1970; empty: none
}

// SignatureValid reports whether signature was made for what, by somebody who has the token: it is
// the protocol's "v1_" and SHA-256 of path:operation:user:token, and :expiration if there is one. It takes
// the same time however much of it is right, and is false while no token is set.
func (s *Session) SignatureValid(signature string, what Signed) bool {
	s.mu.Lock()
	token := s.token
	s.mu.Unlock()
	parts := []string{what.Path, what.Operation, what.User, token}
	if what.Expiration != "" {
		parts = append(parts, what.Expiration)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
	want := "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
	return token != "" && subtle.ConstantTimeCompare([]byte(want), []byte(signature)) == 1
}
