// Package auth tells who asks: it makes API keys and recognises them.
//
// A key is "wrn_" and 32 lower-case hexadecimal digits, 128 random bits. Only its SHA-256 is
// kept, which is enough: there is nothing to guess in a random key, so no slow hash is needed.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Header is the HTTP header that carries the key.
const Header = "X-API-Key"

var keyForm = regexp.MustCompile(`^wrn_[0-9a-f]{32}$`)

// prefixLength is how much of a key is kept to tell keys apart: 16 bits of 128.
const prefixLength = len("wrn_") + 4

// Secret is an API key. It prints as ***, so that it does not end up in a log.
type Secret string

// String hides the key.
func (Secret) String() string { return "***" }

// GoString hides the key.
func (Secret) GoString() string { return "***" }

// MarshalText hides the key, in JSON too.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// NewSecret makes a random key.
func NewSecret() Secret {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand aborts the program when the system has no randomness
	return Secret("wrn_" + hex.EncodeToString(b))
}

// Hash is what is kept of the key.
func (s Secret) Hash() [32]byte { return sha256.Sum256([]byte(s)) }

// Prefix is the part of the key that may be shown.
func (s Secret) Prefix() string { return string(s)[:prefixLength] }

// WellFormed tells whether s can be a key at all.
func (s Secret) WellFormed() bool { return keyForm.MatchString(string(s)) }

// Principal is who asks.
type Principal struct {
	Key     id.Key
	Account id.Account
	Scopes  []Scope
	until   time.Time // the key is valid; zero for ever
	hash    [32]byte  // of the secret that it came with
}
