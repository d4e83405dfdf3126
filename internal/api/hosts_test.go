package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// simHost is the host of the rig.
const simHost = "host-0000abcd"

type hostAnswer struct {
	ID        string
	State     models.HostState
	Reason    *string   `json:"state_reason"`
	Since     time.Time `json:"state_since"`
	Drain     *drainView
	Memory    roomView `json:"memory_mib"`
	VCPUs     roomView
	Sandboxes holdsView
	Snapshots int64
	Templates []hostTemplateView
}

type tokenAnswer struct {
	ID, Token string
	Host      *string   `json:"host_id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// scoped returns a key with scopes that only an operator can give.
func (r *rig) scoped(scopes ...auth.Scope) string {
	r.t.Helper()
	secret := auth.NewSecret()
	if _, err := auth.Keep(r.t.Context(), r.store, "acme", "of an operator", secret, scopes, time.Time{}, db.By{Actor: "operator", Operation: "req-0"}); err != nil {
		r.t.Fatal(err)
	}
	return string(secret)
}

// operated is call with the key of an operator.
func (r *rig) operated(key, method, path, body string) answer {
	r.t.Helper()
	return r.call(method, path, body, auth.Header, key)
}

func (r *rig) hostsOf(key, query string) (ids []string, next *string) {
	r.t.Helper()
	page := decoded[struct {
		Items []hostAnswer
		Next  *string `json:"next_cursor"`
	}](r.t, r.operated(key, "GET", "/v1/hosts"+query, ""), http.StatusOK)
	for _, h := range page.Items {
		ids = append(ids, h.ID)
	}
	return ids, page.Next
}

// storyOf is what was done to a host, or with a token, newest first.
func (r *rig) storyOf(key, query string) string {
	r.t.Helper()
	page := decoded[struct {
		Items []struct {
			Actor, Action, Outcome string
			Detail                 *string
			RequestID              string `json:"request_id"`
		}
	}](r.t, r.operated(key, "GET", "/v1/hosts/audit"+query, ""), http.StatusOK)
	var story []string
	for _, e := range page.Items {
		line := e.Action + " " + e.Outcome
		if e.Detail != nil {
			line += " " + *e.Detail
		}
		if e.RequestID == "" || e.Actor == "" {
			r.t.Errorf("an event of nobody: %+v", e)
		}
		story = append(story, line)
	}
	return strings.Join(story, "; ")
}

// TestHostsOverREST: a host is shown with what it has and holds, drained until nothing is left, taken back and removed, and all of that is audited.
func TestHostsOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	key := r.scoped(auth.Hosts)
	const path = "/v1/hosts/" + simHost
	get := func() hostAnswer {
		t.Helper()
		return decoded[hostAnswer](t, r.operated(key, "GET", path, ""), http.StatusOK)
	}
	asleep, running := r.create(), r.create()
	r.call("POST", "/v1/sandboxes/"+asleep.ID+"/pause", "")
	r.call("POST", "/v1/sandboxes/"+running.ID+"/snapshots", `{"name":"kept"}`)
	before := get()
	if before.State != models.HostReady || before.Drain != nil || before.Since.IsZero() || before.Sandboxes != (holdsView{1, 1}) || before.Snapshots != 1 || len(before.Templates) == 0 {
		t.Errorf("shown: %+v", before)
	}
	if m := before.Memory; m.Promised < int64(running.MemoryMiB) || m.Promised >= 2*int64(running.MemoryMiB) || m.Capacity < m.Promised || m.Overcommit != 1 || before.VCPUs.Promised != 1 || before.VCPUs.Overcommit != 16 {
		t.Errorf("room: %+v, %+v", m, before.VCPUs)
	}
	drained := decoded[hostAnswer](t, r.operated(key, "POST", path+"/drain", `{}`), http.StatusOK)
	if drained.State != models.HostDraining || !drained.Since.After(before.Since) || drained.Drain == nil || drained.Drain.Evict || drained.Drain.Staying != 1 {
		t.Errorf("drained: %+v", drained)
	}
	r.eventually("what slept has left", func() bool { return get().Drain.Done })
	if ids, _ := r.hostsOf(key, "?state=draining&state=down"); len(ids) != 1 {
		t.Errorf("drained hosts: %v", ids)
	}
	r.operated(key, "POST", path+"/drain", `{"evict":true}`)
	r.eventually("what ran has left", func() bool { h := get(); return h.Drain.Evict && h.Drain.Done && h.Sandboxes == holdsView{} })
	if a := r.operated(key, "DELETE", path, ""); a.status != http.StatusConflict || !strings.Contains(string(a.body), `"precondition"`) || !strings.Contains(string(a.body), "1 snapshots") {
		t.Errorf("removal while it holds something: %d %s", a.status, a.body)
	}
	if back := decoded[hostAnswer](t, r.operated(key, "POST", path+"/undrain", ""), http.StatusOK); back.State != models.HostReady || back.Drain != nil {
		t.Errorf("taken back: %+v", back)
	}
	if a := r.operated(key, "DELETE", path+"?force=true", ""); a.status != http.StatusNoContent {
		t.Errorf("removal: %d %s", a.status, a.body)
	}
	for _, gone := range []answer{r.operated(key, "GET", path, ""), r.operated(key, "DELETE", path, ""), r.operated(key, "POST", path+"/drain", `{}`), r.operated(key, "POST", path+"/undrain", "")} {
		if gone.status != http.StatusNotFound {
			t.Errorf("afterwards: %d %s", gone.status, gone.body)
		}
	}
	if ids, _ := r.hostsOf(key, ""); len(ids) != 0 {
		t.Errorf("afterwards there are %v", ids)
	}
	const want = "host.remove ok gives up 0 sandboxes that run, 0 that sleep and 1 snapshots; host.undrain ok; " +
		"host.remove precondition it holds 0 sandboxes that run, 0 that sleep and 1 snapshots; host.drain ok evict; host.drain ok"
	if got := r.storyOf(key, "?target="+simHost); got != want {
		t.Errorf("audit: %s", got)
	}
	if got := r.storyOf(key, "?outcome=precondition&action=host.remove"); !strings.HasPrefix(got, "host.remove precondition") {
		t.Errorf("what was refused: %s", got)
	}
}

// TestListOfHosts: it comes in pages, newest first, by states as they are told one by one, and each says since when it is in its.
func TestListOfHosts(t *testing.T) {
	r := newRig(t, Limits{})
	key := r.scoped(auth.ReadHosts)
	for i := range 3 {
		h := db.Host{ID: id.Host(fmt.Sprintf("host-0000000%d", i+1)), Name: "one", Address: fmt.Sprintf("unix:///%d", i), Driver: "qemu", VCPUs: 4, MemoryMiB: 4096, DiskMiB: 8192}
		if _, _, err := r.store.RegisterHost(t.Context(), h, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.store.MarkUnreachable(t.Context(), "host-00000001"); err != nil {
		t.Fatal(err)
	}
	if out, err := r.store.Quarantine(t.Context(), "host-00000002", "its disk is full"); err != nil || !out {
		t.Fatal(out, err)
	}
	var all []string
	for query := "?limit=1"; ; {
		ids, next := r.hostsOf(key, query)
		all = append(all, ids...)
		if next == nil {
			break
		}
		query = "?limit=1&cursor=" + *next
	}
	if got := strings.Join(all, " "); got != "host-00000003 host-00000002 host-00000001 "+simHost {
		t.Errorf("by pages: %s", got)
	}
	for query, want := range map[string]string{
		"?state=ready": "host-00000003 " + simHost, "?state=quarantined": "host-00000002", "?state=down&state=quarantined": "host-00000002 host-00000001", "?state=draining": "",
	} {
		if ids, _ := r.hostsOf(key, query); strings.Join(ids, " ") != want {
			t.Errorf("%s: %v, want %s", query, ids, want)
		}
	}
	out := decoded[hostAnswer](t, r.operated(key, "GET", "/v1/hosts/host-00000002", ""), http.StatusOK)
	if out.State != models.HostQuarantined || out.Reason == nil || *out.Reason != "its disk is full" {
		t.Errorf("in quarantine: %+v", out)
	}
	if got := r.storyOf(key, "?target=host-00000002"); got != "host.quarantine ok its disk is full" {
		t.Errorf("audit: %s", got)
	}
}

// TestHostsAreForOperators: to keys of accounts there are no hosts, whatever they may do there, and none of them can give what it lacks. Who may look may not change.
func TestHostsAreForOperators(t *testing.T) {
	r := newRig(t, Limits{})
	reader, operator := r.scoped(auth.ReadHosts), r.scoped(auth.Hosts, auth.Keys)
	routes := map[string]string{
		"GET /v1/hosts": "", "GET /v1/hosts/" + simHost: "", "GET /v1/hosts/audit": "", "POST /v1/hosts/tokens": `{}`, "POST /v1/hosts/" + simHost + "/drain": `{}`, "GET /v1/hosts/tokens": "", "DELETE /v1/hosts/tokens/token-0123456789abcdef": "",
		"POST /v1/hosts/" + simHost + "/undrain": "", "DELETE /v1/hosts/" + simHost: "", "DELETE /v1/hosts/nonsense": "",
	}
	for route, body := range routes {
		method, path, _ := strings.Cut(route, " ")
		for range 2 { // the second time Redis knows the key
			e := decoded[errorAnswer](t, r.call(method, path, body), http.StatusNotFound).Error
			if none := decoded[errorAnswer](t, r.call("GET", "/v1/nothing", ""), http.StatusNotFound).Error; e.Message != strings.Replace(none.Message, "/v1/nothing", path, 1) || e.Hint != none.Hint {
				t.Errorf("%s by an account's key: %+v", route, e)
			}
		}
		if a := r.operated(reader, method, path, body); (method == http.MethodGet) != (a.status == http.StatusOK) || method != http.MethodGet && a.status != http.StatusForbidden {
			t.Errorf("%s by who may look: %d %s", route, a.status, a.body)
		}
	}
	for _, scope := range []auth.Scope{auth.Hosts, auth.ReadHosts} {
		body := fmt.Sprintf(`{"name":"x","scopes":[%q]}`, scope)
		if a := r.call("POST", "/v1/api-keys", body); a.status != http.StatusForbidden {
			t.Errorf("an account's admin gives %s: %d %s", scope, a.status, a.body)
		}
		if a := r.operated(operator, "POST", "/v1/api-keys", body); a.status != http.StatusCreated {
			t.Errorf("an operator gives %s: %d %s", scope, a.status, a.body)
		}
	}
	given := r.madeKey(operator, `{"name":"x","scopes":["hosts:read"]}`)
	if a := r.call("POST", "/v1/api-keys/"+given.ID+"/rotate", `{}`); a.status != http.StatusForbidden {
		t.Errorf("an account's admin rotates an operator's key: %d %s", a.status, a.body)
	}
	if got := r.storyOf(reader, ""); got != "" {
		t.Errorf("something was done: %s", got)
	}
}

// TestHostTokensOverREST: a token from there lets a host join, once, as the audit log tells; repeated with its idempotency key the request makes no other, nor shows it again.
func TestHostTokensOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	key := r.scoped(auth.Hosts)
	ask := func(body, idempotency string) answer {
		return r.call("POST", "/v1/hosts/tokens", body, auth.Header, key, idempotencyHeader, idempotency)
	}
	made := ask(`{"expires_in_seconds":60}`, "one")
	token := decoded[tokenAnswer](t, made, http.StatusCreated)
	if left := time.Until(token.ExpiresAt); made.header.Get("Cache-Control") != noStore || token.Host != nil || left > time.Minute || token.ExpiresAt.Sub(token.CreatedAt) != time.Minute {
		t.Errorf("made: %+v, good for %s", token, left)
	}
	if again := ask(`{"expires_in_seconds":60}`, "one"); again.status != http.StatusConflict || strings.Contains(string(again.body), "wht_") {
		t.Errorf("repeated: %d %s", again.status, again.body)
	}
	if a := r.joinWith(token.Token, "host-00000007"); a.status != http.StatusCreated {
		t.Fatalf("join: %d %s", a.status, a.body)
	}
	if got := r.storyOf(key, "?target="+token.ID) + "; " + r.storyOf(key, "?actor="+token.ID+"&target=host-00000007"); got != "host.token ok for a new host; host.join ok 127.0.0.1:1" {
		t.Errorf("audit: %s", got)
	}
	if ids, _ := r.hostsOf(key, "?state=down"); strings.Join(ids, " ") != "host-00000007" {
		t.Errorf("after that there are %v", ids)
	}
	r.eventually("it is said why it cannot be reached", func() bool {
		h := decoded[hostAnswer](t, r.operated(key, "GET", "/v1/hosts/host-00000007", ""), http.StatusOK)
		return h.Reason != nil && strings.Contains(*h.Reason, "refused")
	})
	if bound := decoded[tokenAnswer](t, ask(`{"host_id":"host-00000007"}`, "two"), http.StatusCreated); bound.Host == nil || *bound.Host != "host-00000007" || bound.ID == token.ID {
		t.Errorf("for a host: %+v", bound)
	}
	const drain = "/v1/hosts/" + simHost + "/drain"
	for i := range 2 {
		a := r.call("POST", drain, `{}`, auth.Header, key, idempotencyHeader, "three")
		if a.status != http.StatusOK || (i > 0) != (a.header.Get(replayedHeader) == "true") {
			t.Errorf("drain: %d %s %v", a.status, a.body, a.header)
		}
	}
	if got := r.storyOf(key, "?action=host.drain"); got != "host.drain ok" {
		t.Errorf("a drain that was repeated: %s", got)
	}
}

// TestBadRequestsAboutHosts: each is refused in the words of the API, and changes nothing.
func TestBadRequestsAboutHosts(t *testing.T) {
	r := newRig(t, Limits{JSONBody: 4096})
	key := r.scoped(auth.Hosts)
	const drain, tokens = "POST /v1/hosts/" + simHost + "/drain", "POST /v1/hosts/tokens"
	for _, c := range []struct {
		what, body string
		status     int
		code       models.Code
		says       string
	}{
		{"GET /v1/hosts?state=asleep", "", 400, models.Invalid, `"asleep"`}, {"GET /v1/hosts?limit=0", "", 400, models.Invalid, "limit"},
		{"GET /v1/hosts?cursor=x", "", 400, models.Invalid, "cursor"}, {"GET /v1/hosts?who=me", "", 400, models.Invalid, `"who"`},
		{"GET /v1/hosts?cursor=" + cursor("1 sb-00000001"), "", 400, models.Invalid, "cursor"},
		{"GET /v1/hosts/sb-00000001", "", 400, models.Invalid, "host-xxxxxxxx"}, {"GET /v1/hosts/host-99999999", "", 404, models.NotFound, "host-99999999"},
		{"GET /v1/hosts/" + simHost + "?x=1", "", 400, models.Invalid, `"x"`}, {"GET /v1/hosts/host-0'%20OR%201=1", "", 400, models.Invalid, "host-xxxxxxxx"},
		{"GET /v1/hosts/audit?since=yesterday", "", 400, models.Invalid, "since"}, {"GET /v1/hosts/audit?target=%00", "", 400, models.Invalid, "NUL"},
		{"DELETE /v1/hosts/" + simHost + "?force=maybe", "", 400, models.Invalid, "force"}, {"DELETE /v1/hosts/" + simHost + "?force=true&force=true", "", 400, models.Invalid, "twice"},
		{"DELETE /v1/hosts/host-99999999", "", 404, models.NotFound, "host-99999999"}, {"PUT /v1/hosts/" + simHost, "", 405, models.Invalid, "PUT"},
		{drain, "", 415, models.Invalid, "JSON"}, {drain, `{"evict":"yes"}`, 400, models.Invalid, "evict"}, {drain, `{"evict":null}`, 400, models.Invalid, "null"},
		{drain, `{"force":true}`, 400, models.Invalid, `"force"`}, {drain + "?evict=true", `{}`, 400, models.Invalid, `"evict"`}, {drain, `[]`, 400, models.Invalid, "object"},
		{drain, `{"evict":true,"evict":false}`, 400, models.Invalid, "twice"}, {drain, `{"` + strings.Repeat("x", 5000) + `":1}`, 413, models.Invalid, "4096"},
		{"POST /v1/hosts/host-99999999/drain", `{}`, 404, models.NotFound, "host-99999999"}, {"POST /v1/hosts/host-99999999/undrain", "", 404, models.NotFound, "host-99999999"},
		{"POST /v1/hosts/x/undrain", "", 400, models.Invalid, "host-xxxxxxxx"},
		{"GET /v1/hosts/tokens?limit=201", "", 400, models.Invalid, "limit"}, {"GET /v1/hosts/tokens?host_id=" + simHost, "", 400, models.Invalid, `"host_id"`},
		{"GET /v1/hosts/tokens?cursor=" + cursor("1 host-00000001"), "", 400, models.Invalid, "cursor"}, {"GET /v1/hosts/tokens/token-0123456789abcdef", "", 405, models.Invalid, "GET"},
		{"DELETE /v1/hosts/tokens/token-0123456789abcdef", "", 404, models.NotFound, "token-0123456789abcdef"}, {"DELETE /v1/hosts/tokens/token-0123456789abcde", "", 400, models.Invalid, "token-xxxxxxxxxxxxxxxx"},
		{"DELETE /v1/hosts/tokens/token-0123456789abcdef?force=true", "", 400, models.Invalid, `"force"`}, {"DELETE /v1/hosts/tokens/%25", "", 400, models.Invalid, "token-xxxxxxxxxxxxxxxx"},
		{tokens, `{"host_id":"sb-00000001"}`, 400, models.Invalid, "host-xxxxxxxx"}, {tokens, `{"host_id":""}`, 400, models.Invalid, "host-xxxxxxxx"}, {tokens, `{"host_id":7}`, 400, models.Invalid, "host_id"},
		{tokens, `{"expires_in_seconds":0}`, 400, models.Invalid, "expires_in_seconds"}, {tokens, `{"expires_in_seconds":604801}`, 400, models.Invalid, "604800"},
		{tokens, `{"expires_in_seconds":-1}`, 400, models.Invalid, "expires_in_seconds"}, {tokens, `{"expires_in_seconds":1.5}`, 400, models.Invalid, "expires_in_seconds"},
		{tokens, `{"expires_in_seconds":99999999999999999999}`, 400, models.Invalid, "expires_in_seconds"}, {tokens, `{"ttl":1}`, 400, models.Invalid, `"ttl"`}, {tokens + "?x=1", `{}`, 400, models.Invalid, `"x"`},
	} {
		method, path, _ := strings.Cut(c.what, " ")
		e := decoded[errorAnswer](t, r.operated(key, method, path, c.body), c.status).Error
		if e.Code != c.code || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s %.40s: %+v; want code %s and a message with %q", c.what, c.body, e, c.code, c.says)
		}
	}
	if got := r.storyOf(key, ""); got != "" {
		t.Errorf("something was done: %s", got)
	}
}
