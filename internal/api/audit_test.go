package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
)

type auditPage struct {
	Items []struct {
		ID                                 int64
		Actor, Action, Target, Outcome, At string
		RequestID                          string `json:"request_id"`
	} `json:"items"`
	Next *string `json:"next_cursor"`
}

func (r *rig) audit(query string) auditPage {
	r.t.Helper()
	return decoded[auditPage](r.t, r.call("GET", "/v1/audit"+query, ""), http.StatusOK)
}

// TestAuditOverREST: every change that the API makes is there with who, what and why, by pages and by what is asked for, and no other account's.
func TestAuditOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	path := "/v1/sandboxes/" + sb
	for _, c := range []struct{ method, path, body string }{
		{"PATCH", path, `{"network":{"internet":"off"}}`}, {"PATCH", path, `{"lifecycle":{"timeout_seconds":3600}}`}, {"POST", path + "/pause", ""}, {"POST", path + "/resume", ""},
		{"POST", path + "/fork", `{}`}, {"POST", path + "/hibernate", ""}, {"DELETE", path, ""},
	} {
		if a := r.call(c.method, c.path, c.body, requestIDHeader, "mine"); a.status >= 300 {
			t.Fatalf("%s %s: %d %s", c.method, c.path, a.status, a.body)
		}
	}
	var all []string
	for page := r.audit("?limit=4"); ; page = r.audit("?limit=4&cursor=" + *page.Next) {
		for _, e := range page.Items {
			all = append(all, e.Action+" "+e.Outcome)
			if !strings.HasPrefix(e.Actor, "key-") && e.Actor != "operator" && e.Actor != "system" || e.RequestID == "" || e.At == "" {
				t.Errorf("%+v", e)
			}
		}
		if page.Next == nil {
			break
		}
	}
	for _, want := range []string{"key.create ok", "sandbox.create accepted", "sandbox.create ok", "sandbox.network accepted", "sandbox.network ok", "sandbox.lifecycle ok", "sandbox.pause accepted",
		"sandbox.pause ok", "sandbox.resume ok", "sandbox.hibernate accepted", "sandbox.hibernate ok", "sandbox.destroy accepted", "sandbox.destroy ok"} {
		if !slices.Contains(all, want) {
			t.Errorf("%s is missing in %v", want, all)
		}
	}
	now := time.Now().UTC()
	for query, want := range map[string]int{
		"?target=" + sb + "&action=sandbox.pause": 4, // the hibernation was of one that ran
		"?action=sandbox.destroy&outcome=ok":      1, "?request_id=mine&action=sandbox.create": 2, "?actor=operator": 1,
		"?until=" + now.Add(-time.Hour).Format(time.RFC3339): 0, "?since=" + now.Add(time.Hour).Format(time.RFC3339): 0, "?since=2026-01-01T00:00:00Z&action=sandbox.resume&outcome=ok": 1,
	} {
		if got := r.audit(query).Items; len(got) != want {
			t.Errorf("%s: %d events, want %d: %+v", query, len(got), want, got)
		}
	}
	if a := r.call("GET", "/v1/audit?target="+sb, "", auth.Header, string(r.newKey("other"))); !strings.Contains(string(a.body), `"items":[]`) {
		t.Errorf("another account sees %s", a.body)
	}
	for _, bad := range []string{"cursor=x", "cursor=-1", "limit=0", "since=yesterday", "until=2026-01-02", "actor=%00", "who=me", "actor=a&actor=b", "action=" + strings.Repeat("x", 129)} {
		if a := r.call("GET", "/v1/audit?"+bad, ""); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}
}
