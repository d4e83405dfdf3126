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
	// token is the SHA-256 of the token: two values of equal length compare in constant time.
	token [sha256.Size]byte
	// generation counts the tokens that were set: 0 means none yet.
	generation uint64
}

// New returns a session that has no token yet and whose default user is user, or
// FallbackUser if that is empty.
func New(user string) *Session {
	if user == "" {
		user = FallbackUser
	}
	return &Session{defaults: Defaults{User: user}}
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
	if sum := sha256.Sum256([]byte(token)); token != "" && (s.generation == 0 || sum != s.token) {
		s.token = sum
		s.generation++
	}
}

// HasToken reports whether a token has been set.
func (s *Session) HasToken() bool { return s.Generation() != 0 }

// Generation changes whenever another token is set; it is 0 while there is none.
func (s *Session) Generation() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// Authorize returns the generation of the token if it is the one that is set, and 0 if it is not or none
// is. It takes the same time however much of the token is right.
func (s *Session) Authorize(token string) (generation uint64) {
	sum := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	if subtle.ConstantTimeCompare(sum[:], s.token[:]) != 1 {
		return 0
	}
	return s.generation
}
