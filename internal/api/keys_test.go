package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type keyAnswer struct {
	ID        string     `json:"id"`
	Scopes    []string   `json:"scopes"`
	ExpiresAt *time.Time `json:"expires_at"`
	RevokedAt *time.Time `json:"revoked_at"`
	Key       string     `json:"key"`
}

// madeKey makes a key with the key of by.
func (r *rig) madeKey(by, body string) keyAnswer {
	r.t.Helper()
	return decoded[keyAnswer](r.t, r.call("POST", "/v1/api-keys", body, auth.Header, by), http.StatusCreated)
}

// works tells whether a key is valid.
func (r *rig) works(key string) bool {
	r.t.Helper()
	return r.call("GET", "/v1/api-keys", "", auth.Header, key).status != http.StatusUnauthorized
}

// TestKeysOverREST: keys are made, listed without their secrets, rotated with a grace, revoked at once, and audited.
func TestKeysOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	root := string(r.key)
	k := r.madeKey(root, `{"name":"ci","scopes":["keys","guest"],"expires_in_seconds":3600}`)
	if !r.works(k.Key) || k.ExpiresAt == nil || !slices.Equal(k.Scopes, []string{"keys", "guest"}) {
		t.Errorf("made: %+v", k)
	}
	list := r.call("GET", "/v1/api-keys?limit=1", "")
	page := decoded[struct {
		Items []keyAnswer `json:"items"`
		Next  *string     `json:"next_cursor"`
	}](t, list, http.StatusOK)
	if len(page.Items) != 1 || page.Items[0].ID != k.ID || page.Next == nil || strings.Contains(string(list.body), k.Key) {
		t.Errorf("listed: %s", list.body)
	}
	if rest := r.call("GET", "/v1/api-keys?cursor="+*page.Next, ""); strings.Contains(string(rest.body), k.ID) || !strings.Contains(string(rest.body), `"next_cursor":null`) {
		t.Errorf("the next page: %s", rest.body)
	}
	rotate := func(by, body string) keyAnswer {
		t.Helper()
		a := r.call("POST", "/v1/api-keys/"+k.ID+"/rotate", body, auth.Header, by)
		if a.header.Get("Cache-Control") != "no-store" {
			t.Error("an answer with a secret may be kept")
		}
		return decoded[keyAnswer](t, a, http.StatusOK)
	}
	second := rotate(k.Key, `{"grace_seconds":600}`)
	if second.ID != k.ID || second.Key == k.Key || !r.works(second.Key) || !r.works(k.Key) {
		t.Errorf("rotated with a grace: %+v", second)
	}
	if a := r.call("POST", "/v1/api-keys/"+k.ID+"/rotate", `{}`, auth.Header, k.Key); a.status != http.StatusForbidden {
		t.Errorf("the old secret makes itself a new one: %d %s", a.status, a.body)
	}
	third := rotate(root, `{}`)
	r.eventually("the old secrets work no more", func() bool { return !r.works(k.Key) && !r.works(second.Key) })
	if a := r.call("DELETE", "/v1/api-keys/"+k.ID, ""); a.status != http.StatusNoContent || r.works(third.Key) {
		t.Errorf("revoked: %d %s", a.status, a.body)
	}
	if a := r.call("DELETE", "/v1/api-keys/"+k.ID, ""); a.status != http.StatusNotFound {
		t.Errorf("revoked again: %d %s", a.status, a.body)
	}
	account, err := r.store.AccountNamed(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	events, err := r.store.AuditLog(t.Context(), account, 4)
	if err != nil {
		t.Fatal(err)
	}
	var story []string
	for _, e := range events {
		if e.Target != k.ID || !strings.HasPrefix(e.Actor, "key-") || e.RequestID == "" {
			t.Errorf("audit %+v", e)
		}
		story = append(story, e.Action)
	}
	if !slices.Equal(story, []string{"key.revoke", "key.rotate", "key.rotate", "key.create"}) {
		t.Errorf("audit: %v", story)
	}
}

// TestKeysGiveNoMoreThanTheyHave: neither by making a key nor by rotating one, and never to another account.
func TestKeysGiveNoMoreThanTheyHave(t *testing.T) {
	r := newRig(t, Limits{})
	small := r.madeKey(string(r.key), `{"name":"small","scopes":["keys","sandboxes:read"],"expires_in_seconds":3600}`)
	other := string(r.newKey("other"))
	big := r.madeKey(string(r.key), `{"name":"big","scopes":["admin"]}`)
	inherits := r.madeKey(small.Key, `{"name":"same","scopes":["keys"]}`)
	if inherits.ExpiresAt == nil || inherits.ExpiresAt.After(*small.ExpiresAt) {
		t.Errorf("made without an expiry: %+v", inherits)
	}
	for _, c := range []struct {
		what, method, path, body, key string
		status                        int
	}{
		{"more scopes", "POST", "/v1/api-keys", `{"name":"x","scopes":["guest"]}`, small.Key, 403},
		{"writing for reading", "POST", "/v1/api-keys", `{"name":"x","scopes":["sandboxes:write"]}`, small.Key, 403},
		{"a longer life", "POST", "/v1/api-keys", `{"name":"x","scopes":["keys"],"expires_in_seconds":7200}`, small.Key, 403},
		{"a rotation of a greater one", "POST", "/v1/api-keys/" + big.ID + "/rotate", `{}`, small.Key, 403},
		{"a rotation of another account's", "POST", "/v1/api-keys/" + big.ID + "/rotate", `{}`, other, 404},
		{"the end of another account's", "DELETE", "/v1/api-keys/" + big.ID, "", other, 404},
		{"no scopes", "POST", "/v1/api-keys", `{"name":"x","scopes":[]}`, other, 400},
		{"left out scopes", "POST", "/v1/api-keys", `{"name":"x"}`, other, 400},
		{"an unknown scope", "POST", "/v1/api-keys", `{"name":"x","scopes":["root"]}`, other, 400},
		{"scopes of a wrong type", "POST", "/v1/api-keys", `{"name":"x","scopes":"admin"}`, other, 400},
		{"no name", "POST", "/v1/api-keys", `{"scopes":["admin"]}`, other, 400},
		{"a control character", "POST", "/v1/api-keys", `{"name":"a\nb","scopes":["admin"]}`, other, 400},
		{"no life", "POST", "/v1/api-keys", `{"name":"x","scopes":["admin"],"expires_in_seconds":0}`, other, 400},
		{"a life beyond all", "POST", "/v1/api-keys", `{"name":"x","scopes":["admin"],"expires_in_seconds":9223372036854775807}`, other, 400},
		{"a grace below 0", "POST", "/v1/api-keys/" + big.ID + "/rotate", `{"grace_seconds":-1}`, string(r.key), 400},
		{"a grace beyond all", "POST", "/v1/api-keys/" + big.ID + "/rotate", `{"grace_seconds":9223372036854775807}`, string(r.key), 400},
		{"what is no id", "DELETE", "/v1/api-keys/wrn_x", "", other, 400},
		{"a query", "DELETE", "/v1/api-keys/" + big.ID + "?force=1", "", other, 400},
		{"a bad cursor", "GET", "/v1/api-keys?cursor=x", "", other, 400},
	} {
		if a := r.call(c.method, c.path, c.body, auth.Header, c.key); a.status != c.status {
			t.Errorf("%s: %d %s, want %d", c.what, a.status, a.body, c.status)
		}
	}
	if !r.works(big.Key) {
		t.Error("a refused request has ended a key")
	}
}

// TestEveryRouteHasItsScope: the table has all routes and no other, and a key with all other scopes is refused before anything else is looked at.
func TestEveryRouteHasItsScope(t *testing.T) {
	r := newRig(t, Limits{})
	keys := map[auth.Scope]string{}
	for _, s := range auth.Scopes {
		secret := auth.NewSecret()
		others := slices.DeleteFunc(slices.Clone(auth.Scopes), func(o auth.Scope) bool { return auth.May([]auth.Scope{o}, s) })
		if _, err := auth.Keep(t.Context(), r.store, "acme", "all but "+string(s), secret, others, time.Time{}, db.By{Actor: "operator"}); err != nil {
			t.Fatal(err)
		}
		keys[s] = string(secret)
	}
	seen := 0
	err := chi.Walk(r.handler.(chi.Router), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if !strings.HasPrefix(route, "/v1/") || route == "/v1/hosts/join" { // a token says who asks
			return nil
		}
		route = strings.TrimSuffix(route, "/")
		scope, known := scopes[method+" "+route]
		switch {
		case strings.Contains(route, "/ports/") || strings.HasSuffix(route, "/terminal"):
			scope = auth.Guest // those ask for themselves: guestKey
		case !known:
			t.Errorf("%s %s has no scope", method, route)
			return nil
		default:
			seen++
		}
		path := strings.NewReplacer("{id}", "sb-00000001", "{pid}", "1", "{context}", "ctx-00000001", "{delivery}", "msg-0000000000000001", "{port}", "80", "*", "x").Replace(route)
		_, a := r.do(r.request(method, path, "", auth.Header, keys[scope]))
		status, code := http.StatusForbidden, models.Forbidden
		if scope == auth.ReadHosts { // then the key knows of no hosts at all
			status, code = http.StatusNotFound, models.NotFound
		}
		if method == http.MethodHead {
			a.body = fmt.Appendf(nil, "%q", code)
		}
		if a.status != status || !strings.Contains(string(a.body), fmt.Sprintf("%q", code)) {
			t.Errorf("%s %s without %s: %d %s", method, route, scope, a.status, a.body)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(scopes) {
		t.Errorf("the table has %d routes, %d are served", len(scopes), seen)
	}
	if a := r.call("GET", "/v1/nothing", "", auth.Header, keys[auth.Admin]); a.status != http.StatusNotFound {
		t.Errorf("what is no route: %d %s", a.status, a.body)
	}
}
