// Package session holds what the host has told this guest over /init: the token that
// requests must carry, the environment, the default user and the working directory.
package session

import (
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"sync"
)

// FallbackUser is the account that processes and files belong to when neither the
// request nor /init names one. Every template has it.
const FallbackUser = "user"

// Defaults apply where a request does not say otherwise.
type Defaults struct {
	User    string            // never empty
	Workdir string            // empty: the user's home
	Env     map[string]string // of every process; must not be changed
}

// Session is the state. Its methods may be called at the same time.
type Session struct {
	mu       sync.Mutex
	defaults Defaults
	// token is kept as it is because signatures are made with it; it is not written anywhere.
	token string
	// sum is its SHA-256: two values of equal length compare in constant time.
	sum   [sha256.Size]byte
	grant Grant  // of this token
	user  string // the default one before anybody said another
}

// Grant stands for having shown the token. It is worth nothing once another token is set, and never is when zero.
type Grant uint64

// New returns a session that has no token yet and whose default user is user, or
// FallbackUser if that is empty.
func New(user string) *Session {
	if user == "" {
		user = FallbackUser
	}
	return &Session{defaults: Defaults{User: user}, user: user}
}

// Defaults returns the current defaults.
func (s *Session) Defaults() Defaults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.defaults
}

// Update replaces what d has a value for and keeps the rest. Env is replaced as a whole,
// by an empty map too. A token that is not empty becomes the token.
func (s *Session) Update(d Defaults, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.User != "" {
		s.defaults.User = d.User
	}
	if d.Workdir != "" {
		s.defaults.Workdir = d.Workdir
	}
	if d.Env != nil {
		s.defaults.Env = maps.Clone(d.Env)
	}
	if token != "" && token != s.token {
		s.token, s.sum = token, sha256.Sum256([]byte(token))
		s.grant++
	}
}

// Forget makes the session what New returned. Grants are worth nothing any more.
func (s *Session) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.defaults = Defaults{User: s.user}
	s.token, s.sum = "", [sha256.Size]byte{}
	s.grant++
}

// HasToken reports whether a token has been set.
func (s *Session) HasToken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token != ""
}

// Authorize reports whether token is the one that was set, and returns the grant that saves showing it
// again. It takes the same time however much of it is right, and is false while none is set.
func (s *Session) Authorize(token string) (Grant, bool) {
	sum := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" || subtle.ConstantTimeCompare(sum[:], s.sum[:]) != 1 {
		return 0, false
	}
	return s.grant, true
}

// Valid reports whether the token that a grant was given for is still the one.
func (s *Session) Valid(grant Grant) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token != "" && grant == s.grant
}
