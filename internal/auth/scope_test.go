package auth

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestMay(t *testing.T) {
	want := map[Scope][]Scope{
		ReadSandboxes: {ReadSandboxes}, WriteSandboxes: {ReadSandboxes, WriteSandboxes}, Guest: {Guest}, Keys: {Keys}, ReadAudit: {ReadAudit}, Webhooks: {Webhooks},
		Admin:     {ReadSandboxes, WriteSandboxes, Guest, Keys, ReadAudit, Webhooks, Admin}, // of the account, and nothing else
		ReadHosts: {ReadHosts}, Hosts: {ReadHosts, Hosts},
	}
	for _, has := range Scopes {
		for _, s := range Scopes {
			if got := May([]Scope{has}, s); got != slices.Contains(want[has], s) {
				t.Errorf("who has %s may do %s: %v", has, s, got)
			}
		}
	}
}

func TestParseScopes(t *testing.T) {
	if got, err := ParseScopes([]string{"guest", "keys", "guest"}); err != nil || !slices.Equal(got, []Scope{Guest, Keys}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]string{nil, {}, {""}, {"Guest"}, {"guest", "root"}} {
		if _, err := ParseScopes(bad); models.CodeOf(err) != models.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestGrants: through whatever chain of keys that make keys, none can do more than the first, or longer.
func TestGrants(t *testing.T) {
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	draw := func(t *rapid.T) ([]Scope, time.Time) {
		until := time.Time{}
		if hours := rapid.IntRange(0, 5).Draw(t, "hours"); hours > 0 {
			until = epoch.Add(time.Duration(hours) * time.Hour)
		}
		return rapid.SliceOfN(rapid.SampledFrom(Scopes), 1, 3).Draw(t, "scopes"), until
	}
	rapid.Check(t, func(t *rapid.T) {
		first, firstUntil := draw(t)
		scopes, until := first, firstUntil
		for range rapid.IntRange(1, 6).Draw(t, "keys") {
			if made, madeUntil := draw(t); checkGrant(scopes, until, made, madeUntil) == nil {
				scopes, until = made, madeUntil
			}
			for _, s := range Scopes {
				if May(scopes, s) && !May(first, s) {
					t.Fatalf("%v came to %v", first, scopes)
				}
			}
			if !firstUntil.IsZero() && (until.IsZero() || until.After(firstUntil)) {
				t.Fatalf("valid until %s came to %s", firstUntil, until)
			}
		}
	})
}
