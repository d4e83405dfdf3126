package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type webhookAnswer struct {
	ID      string   `json:"id"`
	Events  []string `json:"events"`
	Enabled bool     `json:"enabled"`
	State   string   `json:"state"`
	Secret  string   `json:"secret"`
}

type deliveryAnswer struct {
	ID       string     `json:"id"`
	Type     string     `json:"type"`
	Event    *string    `json:"event_id"`
	State    string     `json:"state"`
	Attempts int        `json:"attempts"`
	Status   *int       `json:"status"`
	Last     *time.Time `json:"last_attempt_at"`
}

// message is what a receiver got.
type message struct {
	header http.Header
	body   []byte
}

// signedBy tells whether a signature of a message is one with a secret, by the words of Standard Webhooks.
func (m message) signedBy(secret string) bool {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(m.header.Get("webhook-id") + "." + m.header.Get("webhook-timestamp") + "." + string(m.body)))
	return slices.Contains(strings.Fields(m.header.Get("webhook-signature")), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// receiver collects messages and answers with status 200.
func (r *rig) receiver() (url string, got func() []message) {
	r.t.Helper()
	var mu sync.Mutex
	var all []message
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, message{req.Header.Clone(), body})
	}))
	r.t.Cleanup(server.Close)
	return server.URL, func() []message {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// TestWebhooks: what becomes of a sandbox reaches the receiver, signed, as GET /v1/events has it; the deliveries tell of it; each change is audited.
func TestWebhooks(t *testing.T) {
	r := newRig(t, Limits{})
	url, got := r.receiver()
	before := r.create().ID
	made := r.call("POST", "/v1/webhooks", `{"url":"`+url+`","events":["sandbox.running","sandbox.stopped","sandbox.running"]}`)
	hook := decoded[webhookAnswer](t, made, http.StatusCreated)
	if made.header.Get("Cache-Control") != "no-store" || hook.State != "active" || !slices.Equal(hook.Events, []string{"sandbox.running", "sandbox.stopped"}) {
		t.Errorf("made: %s", made.body)
	}
	path := "/v1/webhooks/" + hook.ID
	for _, answer := range []answer{r.call("GET", path, ""), r.call("GET", "/v1/webhooks", "")} {
		if !strings.Contains(string(answer.body), hook.ID) || strings.Contains(string(answer.body), "secret\":") {
			t.Errorf("looked up: %s", answer.body)
		}
	}
	sb := r.create().ID
	r.call("DELETE", "/v1/sandboxes/"+sb, "")
	r.eventually("both have come", func() bool { return len(got()) == 2 })
	events := decoded[eventsAnswer](t, r.call("GET", "/v1/events?sandbox="+sb, ""), http.StatusOK).Items
	slices.Reverse(events)
	for i, want := range []struct {
		kind  string
		event eventAnswer
	}{{"sandbox.running", events[2]}, {"sandbox.stopped", events[4]}} {
		m := got()[i]
		var body struct {
			Type      string      `json:"type"`
			Timestamp time.Time   `json:"timestamp"`
			Data      eventAnswer `json:"data"`
		}
		if err := json.Unmarshal(m.body, &body); err != nil || body.Type != want.kind || body.Data.ID != want.event.ID || body.Data.Sandbox != sb || body.Timestamp.IsZero() {
			t.Errorf("message %d: %s, %v", i, m.body, err)
		}
		if !m.signedBy(hook.Secret) || m.signedBy(hook.Secret[:20]) || m.header.Get("Content-Type") != "application/json" {
			t.Errorf("message %d is not signed: %v", i, m.header)
		}
	}
	if strings.Contains(string(got()[0].body), before) {
		t.Error("it is told of what was before")
	}
	var all []deliveryAnswer
	list := func(query string) []deliveryAnswer {
		t.Helper()
		return decoded[struct {
			Items []deliveryAnswer `json:"items"`
		}](t, r.call("GET", path+"/deliveries"+query, ""), http.StatusOK).Items
	}
	r.eventually("the deliveries are noted", func() bool { all = list("?state=delivered"); return len(all) == 2 })
	if d := all[0]; d.Type != "sandbox.stopped" || d.ID != got()[1].header.Get("webhook-id") || d.Attempts != 1 || *d.Status != 200 || d.Last == nil || *d.Event != events[4].ID {
		t.Errorf("delivery: %+v", d)
	}

	again := r.call("POST", path+"/rotate", `{"grace_seconds":600}`)
	rotated := decoded[webhookAnswer](t, again, http.StatusOK)
	if again.header.Get("Cache-Control") != "no-store" || rotated.Secret == hook.Secret {
		t.Errorf("rotated: %s", again.body)
	}
	ping := decoded[deliveryAnswer](t, r.call("POST", path+"/ping", ""), http.StatusAccepted)
	r.eventually("the ping has come", func() bool { return len(got()) == 3 })
	if m := got()[2]; m.header.Get("webhook-id") != ping.ID || !m.signedBy(rotated.Secret) || !m.signedBy(hook.Secret) || !strings.Contains(string(m.body), `"webhook.ping"`) {
		t.Errorf("ping: %v %s", m.header, m.body)
	}
	decoded[deliveryAnswer](t, r.call("POST", path+"/deliveries/"+all[1].ID+"/retry", ""), http.StatusAccepted)
	r.eventually("what was sent comes again", func() bool { return len(got()) == 4 })
	if m := got()[3]; m.header.Get("webhook-id") != all[1].ID || string(m.body) != string(got()[0].body) {
		t.Errorf("again: %v %s", m.header, m.body)
	}
	off := decoded[webhookAnswer](t, r.call("PATCH", path, `{"enabled":false,"events":[]}`), http.StatusOK)
	if off.State != "disabled" || off.Enabled || len(off.Events) != 0 {
		t.Errorf("disabled: %+v", off)
	}
	r.refused(r.call("POST", path+"/ping", ""), http.StatusConflict, models.Precondition, "disabled")
	if a := r.call("DELETE", path, ""); a.status != http.StatusNoContent {
		t.Errorf("deleted: %d %s", a.status, a.body)
	}
	r.refused(r.call("DELETE", path, ""), http.StatusNotFound, models.NotFound, hook.ID)
	account, err := r.store.AccountNamed(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	log, err := r.store.Audit(t.Context(), db.AuditFilter{Account: account, Target: hook.ID, Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	var story []string
	for _, e := range log {
		if !strings.HasPrefix(e.Actor, "key-") || e.RequestID == "" {
			t.Errorf("audit %+v", e)
		}
		story = append(story, e.Action)
	}
	if !slices.Equal(story, []string{"webhook.delete", "webhook.change", "webhook.retry", "webhook.ping", "webhook.rotate", "webhook.create"}) {
		t.Errorf("audit: %v", story)
	}
}

// TestBadWebhooks: what makes no sense is refused, and what is another account's is not there.
func TestBadWebhooks(t *testing.T) {
	r := newRig(t, Limits{})
	url, _ := r.receiver()
	hook := decoded[webhookAnswer](t, r.call("POST", "/v1/webhooks", `{"url":"`+url+`"}`), http.StatusCreated)
	path := "/v1/webhooks/" + hook.ID
	ping := decoded[deliveryAnswer](t, r.call("POST", path+"/ping", ""), http.StatusAccepted)
	foreign := string(r.newKey("other"))
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/v1/webhooks", `{}`, 400, "url is required"},
		{"POST", "/v1/webhooks", `{"url":7}`, 400, "url"},
		{"POST", "/v1/webhooks", `{"url":"ftp://example.com/"}`, 400, "https://"},
		{"POST", "/v1/webhooks", `{"url":"http://169.254.169.254/latest/meta-data"}`, 400, "not public"},
		{"POST", "/v1/webhooks", `{"url":"http://127.0.0.2/"}`, 400, "not public"},
		{"POST", "/v1/webhooks", `{"url":"https://example.com/` + strings.Repeat("x", 2048) + `"}`, 400, "2048"},
		{"POST", "/v1/webhooks", `{"url":"https://example.com/\u0000"}`, 400, "url"},
		{"POST", "/v1/webhooks", `{"url":"https://example.com/","events":["running"]}`, 400, `"running"`},
		{"POST", "/v1/webhooks", `{"url":"https://example.com/","events":"sandbox.running"}`, 400, "events"},
		{"POST", "/v1/webhooks", `{"url":"https://example.com/","secret":"x"}`, 400, `"secret"`},
		{"POST", "/v1/webhooks", `{"url":"https://example.com/","enabled":"yes"}`, 400, "enabled"},
		{"PATCH", path, `{}`, 400, "changes nothing"},
		{"PATCH", path, `{"url":""}`, 400, "url"},
		{"PATCH", path, `{"url":"http://10.0.0.1/"}`, 400, "not public"},
		{"PATCH", path, `{"events":["x"]}`, 400, `"x"`},
		{"POST", path + "/rotate", `{"grace_seconds":-1}`, 400, "grace_seconds"},
		{"POST", path + "/rotate", `{"grace_seconds":604801}`, 400, "grace_seconds"},
		{"GET", path + "/deliveries?state=lost", "", 400, "lost"},
		{"GET", path + "/deliveries?cursor=x", "", 400, "cursor"},
		{"GET", path + "/deliveries?limit=0", "", 400, "limit"},
		{"GET", path + "?x=1", "", 400, `"x"`},
		{"GET", "/v1/webhooks?cursor=x", "", 400, "cursor"},
		{"GET", "/v1/webhooks/sb-00000001", "", 400, "wh-xxxxxxxx"},
		{"GET", "/v1/webhooks/wh-00000000", "", 404, "wh-00000000"},
		{"POST", path + "/deliveries/msg-1/retry", "", 400, "msg-"},
		{"POST", path + "/deliveries/msg-0000000000000000/retry", "", 404, "msg-0000000000000000"},
		{"PUT", path, "", 405, "PUT"},
	} {
		a := r.call(c.method, c.path, c.body)
		if a.status != c.status || !strings.Contains(string(a.body), strings.ReplaceAll(c.says, `"`, `\"`)) {
			t.Errorf("%s %s %s: %d %s, want %d %q", c.method, c.path, c.body, a.status, a.body, c.status, c.says)
		}
	}
	for _, c := range [][3]string{
		{"GET", path, ""}, {"PATCH", path, `{"enabled":false}`}, {"DELETE", path, ""}, {"POST", path + "/rotate", `{}`}, {"POST", path + "/ping", ""},
		{"GET", path + "/deliveries", ""}, {"POST", path + "/deliveries/" + ping.ID + "/retry", ""},
	} {
		if a := r.call(c[0], c[1], c[2], auth.Header, foreign); a.status != http.StatusNotFound {
			t.Errorf("another account's %s %s: %d %s", c[0], c[1], a.status, a.body)
		}
	}
	for range db.MaxWebhooks - 1 {
		if a := r.plain("POST", "/v1/webhooks", `{"url":"`+url+`","enabled":false}`); a.status != http.StatusCreated {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	r.refused(r.call("POST", "/v1/webhooks", `{"url":"`+url+`"}`), http.StatusTooManyRequests, models.Exhausted, "20 webhooks")
	a := r.call("POST", path+"/rotate", `{}`, idempotencyHeader, "once")
	again := r.call("POST", path+"/rotate", `{}`, idempotencyHeader, "once")
	if a.status != http.StatusOK || again.status != http.StatusConflict {
		t.Errorf("rotated once: %d, then %d %s", a.status, again.status, again.body)
	}
}
