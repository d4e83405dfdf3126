// Package grant makes and checks signed texts that let their bearer do one thing in one sandbox for a while,
// without an API key: reach a port, or open a terminal.
//
// Nothing is kept of a grant: it holds until it expires or its sandbox ends. A sandbox's id is never used
// again, so that the grants of one that has ended are worth nothing.
package grant

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Kind is what a grant is for. It is the begin of its text, by which a lost one can be recognised.
type Kind string

// The kinds of grants.
const (
	Port     Kind = "wpt_"
	Terminal Kind = "wtt_"
)

// Grant is what its bearer may do.
type Grant struct {
	Kind    Kind
	Sandbox id.Sandbox
	Account id.Account // whose sandbox it is
	Port    int        // 0: any
	Expires time.Time  // to the second
}

// KeySize is that of a Signer's key, in bytes.
const KeySize = 32

// Signer makes and checks grants. All that have the same key know each other's.
type Signer struct{ key []byte }

// NewSigner returns a signer with a key of KeySize random bytes.
func NewSigner(key []byte) (*Signer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the key of grants has %d bytes, not %d", len(key), KeySize)
	}
	return &Signer{key: key}, nil
}

var encoding = base64.RawURLEncoding.Strict() // one text for each grant

// Sign returns the grant's text: letters, digits, "-", "_" and one ".".
func (s *Signer) Sign(g Grant) string {
	claims := fmt.Sprintf("%s %s %d %d", g.Sandbox, g.Account, g.Port, g.Expires.Unix())
	text := string(g.Kind) + encoding.EncodeToString([]byte(claims))
	return text + "." + encoding.EncodeToString(s.sum(text))
}

func (s *Signer) sum(text string) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// maxText is far beyond what Sign makes.
const maxText = 512

// Check returns what a text grants now, if it is of that kind; otherwise Unauthenticated.
func (s *Signer) Check(kind Kind, text string, now time.Time) (Grant, error) {
	wrong := models.Errorf(models.Unauthenticated, "the token is not valid")
	signed, sum, found := strings.Cut(text, ".")
	claims, ours := strings.CutPrefix(signed, string(kind))
	if !found || !ours || len(text) > maxText {
		return Grant{}, wrong
	}
	got, err := encoding.DecodeString(sum)
	if err != nil || !hmac.Equal(got, s.sum(signed)) {
		return Grant{}, wrong
	}
	g, err := parse(kind, claims)
	if err != nil {
		return Grant{}, wrong.WithCause(err)
	}
	if !now.Before(g.Expires) {
		return Grant{}, models.Errorf(models.Unauthenticated, "the token has expired")
	}
	return g, nil
}

// parse reads claims, which are signed and therefore ours.
func parse(kind Kind, claims string) (Grant, error) {
	plain, err := encoding.DecodeString(claims)
	if err != nil {
		return Grant{}, err
	}
	fields := strings.Split(string(plain), " ")
	if len(fields) != 4 {
		return Grant{}, fmt.Errorf("%d claims", len(fields))
	}
	sb, err := id.ParseSandbox(fields[0])
	if err != nil {
		return Grant{}, err
	}
	port, err := strconv.Atoi(fields[2])
	if err != nil {
		return Grant{}, err
	}
	expires, err := strconv.ParseInt(fields[3], 10, 64)
	if err != nil {
		return Grant{}, err
	}
	return Grant{Kind: kind, Sandbox: sb, Account: id.Account(fields[1]), Port: port, Expires: time.Unix(expires, 0)}, nil
}
