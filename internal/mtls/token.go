package mtls

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Token lets one host join, once. It says which authority the host may believe.
type Token string

var (
	tokenForm  = regexp.MustCompile(`^wht_[0-9a-f]{32}\.[0-9a-f]{64}$`)
	secretForm = regexp.MustCompile(`^wht_[0-9a-f]{32}$`)
)

// secretSize is the length of the secret part, in characters.
const secretSize = len("wht_") + 32

// NewToken returns a random token of an authority.
func NewToken(a *Authority) Token {
	secret := make([]byte, 16)
	rand.Read(secret) // never fails: crypto/rand aborts the program when the system has no randomness
	return Token("wht_" + hex.EncodeToString(secret) + "." + a.Fingerprint())
}

// ParseToken reads a token; Invalid for what is none. The error does not repeat it.
func ParseToken(text string) (Token, error) {
	if !tokenForm.MatchString(text) {
		return "", models.Errorf(models.Invalid, "the token is not of the form that control-plane host token prints")
	}
	return Token(text), nil
}

// Hash is what is kept of a token: the SHA-256 of its secret part.
func (t Token) Hash() [32]byte { return sha256.Sum256([]byte(t.Secret())) }

// Secret is the part that a host sends.
func (t Token) Secret() string { return string(t[:secretSize]) }

// Authority is the fingerprint of the authority that a host may believe.
func (t Token) Authority() string { return string(t[secretSize+1:]) }

// String hides the secret, for logs.
func (t Token) String() string { return "wht_***" }

// HashSecret is Hash, given the part that a host sends; Unauthenticated for what is none.
func HashSecret(secret string) ([32]byte, error) {
	if !secretForm.MatchString(secret) {
		return [32]byte{}, models.Errorf(models.Unauthenticated, "the token is not valid")
	}
	return sha256.Sum256([]byte(secret)), nil
}
