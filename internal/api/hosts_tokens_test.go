package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// tokenFor makes a token with a body as POST /v1/hosts/tokens takes it.
func (r *rig) tokenFor(key, body string) tokenAnswer {
	r.t.Helper()
	return decoded[tokenAnswer](r.t, r.operated(key, "POST", "/v1/hosts/tokens", body), http.StatusCreated)
}

// joinWith has a host ask to be let in with a token.
func (r *rig) joinWith(token string, host id.Host) answer {
	r.t.Helper()
	parsed, err := mtls.ParseToken(token)
	if err != nil {
		r.t.Fatal(err)
	}
	identity, err := mtls.NewIdentity(filepath.Join(r.t.TempDir(), "identity.pem"), host)
	if err != nil {
		r.t.Fatal(err)
	}
	request, err := identity.Request()
	if err != nil {
		r.t.Fatal(err)
	}
	body := fmt.Sprintf(`{"token":%q,"host_id":%q,"name":"seven","address":"127.0.0.1:1","certificate_request":%q}`, parsed.Secret(), host, base64.StdEncoding.EncodeToString(request))
	return r.call("POST", "/v1/hosts/join", body, auth.Header, "")
}

// tokensOf is a list of tokens, all pages of it.
func (r *rig) tokensOf(key string, limit int) (all []tokenAnswer) {
	r.t.Helper()
	for query := fmt.Sprintf("?limit=%d", limit); ; {
		page := decoded[struct {
			Items []tokenAnswer
			Next  *string `json:"next_cursor"`
		}](r.t, r.operated(key, "GET", "/v1/hosts/tokens"+query, ""), http.StatusOK)
		if all = append(all, page.Items...); page.Next == nil {
			return all
		}
		query = fmt.Sprintf("?limit=%d&cursor=%s", limit, *page.Next)
	}
}

func namesOf(tokens []tokenAnswer) string {
	var ids []string
	for _, t := range tokens {
		ids = append(ids, t.ID)
	}
	return strings.Join(ids, " ")
}

// TestListOfHostTokens: those that can still be used are listed, newest first, by pages, those that were made in the same moment too, and without what lets a host join.
func TestListOfHostTokens(t *testing.T) {
	r := newRig(t, Limits{})
	key, reader := r.scoped(auth.Hosts), r.scoped(auth.ReadHosts)
	if got := r.tokensOf(reader, 10); len(got) != 0 {
		t.Errorf("at first there are %+v", got)
	}
	var want []string
	for i := range 6 {
		made := r.tokenFor(key, fmt.Sprintf(`{"host_id":"host-0000000%d","expires_in_seconds":60}`, i))
		want = append([]string{made.ID}, want...)
	}
	used, revoked, expired := r.tokenFor(key, `{}`), r.tokenFor(key, `{}`), r.tokenFor(key, `{}`)
	if a := r.joinWith(used.Token, "host-00000007"); a.status != http.StatusCreated {
		t.Fatalf("join: %d %s", a.status, a.body)
	}
	if a := r.operated(key, "DELETE", "/v1/hosts/tokens/"+revoked.ID, ""); a.status != http.StatusNoContent {
		t.Fatalf("revocation: %d %s", a.status, a.body)
	}
	r.sql(`UPDATE host_tokens SET expires_at = now() WHERE encode(hash, 'hex') LIKE $1 || '%'`, strings.TrimPrefix(expired.ID, "token-"))
	for _, limit := range []int{1, 4, 200} {
		if got := namesOf(r.tokensOf(reader, limit)); got != strings.Join(want, " ") {
			t.Errorf("by pages of %d: %s, want %s", limit, got, strings.Join(want, " "))
		}
	}
	newest := r.tokensOf(reader, 10)[0]
	if newest.Token != "" || newest.Host == nil || *newest.Host != "host-00000005" || newest.ExpiresAt.Sub(newest.CreatedAt) != time.Minute {
		t.Errorf("one of them: %+v", newest)
	}
	r.sql(`UPDATE host_tokens SET created_at = now()`)
	if one, all := namesOf(r.tokensOf(reader, 1)), namesOf(r.tokensOf(reader, 200)); one != all || len(strings.Fields(all)) != len(want) {
		t.Errorf("of the same moment, by pages of one: %s, all: %s", one, all)
	}
}

// TestRevokedHostToken: no host joins with it, also if it is revoked again, and the audit log says who has revoked it. Where a host has joined already that is said, and written down.
func TestRevokedHostToken(t *testing.T) {
	r := newRig(t, Limits{})
	key := r.scoped(auth.Hosts)
	token, bound, used, expired := r.tokenFor(key, `{}`), r.tokenFor(key, `{"host_id":"host-00000008"}`), r.tokenFor(key, `{}`), r.tokenFor(key, `{}`)
	revoke := func(token tokenAnswer, idempotency string) answer {
		t.Helper()
		return r.call("DELETE", "/v1/hosts/tokens/"+token.ID, "", auth.Header, key, idempotencyHeader, idempotency)
	}
	for i, idempotency := range []string{"one", "one", "two", ""} {
		if a := revoke(token, idempotency); a.status != http.StatusNoContent || (i == 1) != (a.header.Get(replayedHeader) == "true") {
			t.Errorf("revocation %d: %d %s", i, a.status, a.body)
		}
	}
	if a := revoke(bound, "bound"); a.status != http.StatusNoContent {
		t.Errorf("one for a host: %d %s", a.status, a.body)
	}
	r.refused(r.joinWith(token.Token, "host-00000007"), http.StatusUnauthorized, models.Unauthenticated, "revoked")
	r.refused(r.joinWith(bound.Token, "host-00000008"), http.StatusUnauthorized, models.Unauthenticated, "revoked")
	if got := r.storyOf(key, "?target="+token.ID); got != "host.token.revoke ok; host.token ok for a new host" {
		t.Errorf("audit: %s", got)
	}
	if a := r.joinWith(used.Token, "host-00000009"); a.status != http.StatusCreated {
		t.Fatalf("join with one that was not revoked: %d %s", a.status, a.body)
	}
	r.refused(revoke(used, ""), http.StatusConflict, models.Precondition, "by the host host-00000009")
	if got := r.storyOf(key, "?target="+used.ID); got != "host.token.revoke precondition used by host-00000009; host.token ok for a new host" {
		t.Errorf("audit of what came too late: %s", got)
	}
	if ids, _ := r.hostsOf(key, "?state=down"); strings.Join(ids, " ") != "host-00000009" {
		t.Errorf("who has joined: %v", ids)
	}
	r.sql(`UPDATE host_tokens SET expires_at = now() - interval '1 s' WHERE encode(hash, 'hex') LIKE $1 || '%'`, strings.TrimPrefix(expired.ID, "token-"))
	if a := revoke(expired, ""); a.status != http.StatusNoContent {
		t.Errorf("one that has expired: %d %s", a.status, a.body)
	}
}
