package auth

import (
	"slices"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Scope is something that a key may do. The values equal those of the API.
type Scope string

// The scopes. To change includes to read.
const (
	ReadSandboxes  Scope = "sandboxes:read"  // look at sandboxes, snapshots, templates, the pool and what was used
	WriteSandboxes Scope = "sandboxes:write" // make, change and end them
	Guest          Scope = "guest"           // use what is inside: programs, files, terminals, ports
	Keys           Scope = "keys"            // look at keys, and make, rotate and revoke them
	ReadAudit      Scope = "audit:read"      // look at the audit log
	Webhooks       Scope = "webhooks"        // look at webhooks, and make, change and delete them
	Admin          Scope = "admin"           // everything in the account
	ReadHosts      Scope = "hosts:read"      // look at hosts, which are of no account, and at what was done to them
	Hosts          Scope = "hosts"           // drain and remove them, and let them join
)

// operators are the scopes of whoever runs the service, which no other includes.
var operators = []Scope{ReadHosts, Hosts}

// Scopes are all that there are.
var Scopes = []Scope{ReadSandboxes, WriteSandboxes, Guest, Keys, ReadAudit, Webhooks, Admin, ReadHosts, Hosts}

// includes tells whether who may do s may do other.
func (s Scope) includes(other Scope) bool {
	switch {
	case s == other:
		return true
	case slices.Contains(operators, other):
		return s == Hosts
	}
	return s == Admin || s == WriteSandboxes && other == ReadSandboxes
}

// Operates tells whether p may look at what is of no account.
func (p Principal) Operates() bool { return May(p.Scopes, ReadHosts) }

// OfOperators tells whether s is about what is of no account.
func (s Scope) OfOperators() bool { return slices.Contains(operators, s) }

// May tells whether one of the scopes includes s.
func May(scopes []Scope, s Scope) bool {
	return slices.ContainsFunc(scopes, func(has Scope) bool { return has.includes(s) })
}

// ParseScopes returns an Invalid error for what is none, and for none.
func ParseScopes(texts []string) ([]Scope, error) {
	if len(texts) == 0 {
		return nil, models.Errorf(models.Invalid, "scopes must not be empty").WithHint("there are: %s", joined(Scopes))
	}
	var all []Scope
	for _, text := range texts {
		s := Scope(text)
		if !slices.Contains(Scopes, s) {
			return nil, models.Errorf(models.Invalid, "there is no scope %q", text).WithHint("there are: %s", joined(Scopes))
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all, nil
}

func joined(scopes []Scope) string { return strings.Join(texts(scopes), ", ") }

func texts(scopes []Scope) []string {
	all := make([]string, len(scopes))
	for i, s := range scopes {
		all[i] = string(s)
	}
	return all
}

func scopesOf(texts []string) []Scope {
	all := make([]Scope, len(texts))
	for i, text := range texts {
		all[i] = Scope(text)
	}
	return all
}

// Require returns a Forbidden error unless p may do s.
func (p Principal) Require(s Scope) error {
	if May(p.Scopes, s) {
		return nil
	}
	return models.Errorf(models.Forbidden, "the API key does not have the scope %s", s).WithHint("it has: %s", joined(p.Scopes))
}

// checkGrant refuses a key that could do more than its maker, or longer.
func checkGrant(maker []Scope, makerUntil time.Time, made []Scope, madeUntil time.Time) error {
	for _, s := range made {
		if !May(maker, s) {
			return models.Errorf(models.Forbidden, "the API key does not have the scope %s, and cannot give it", s).WithHint("it has: %s", joined(maker))
		}
	}
	if !makerUntil.IsZero() && (madeUntil.IsZero() || madeUntil.After(makerUntil)) {
		return models.Errorf(models.Forbidden, "the API key is valid until %s, and cannot make one that is valid for longer", makerUntil.UTC().Format(time.RFC3339))
	}
	return nil
}
