package api

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
)

// told is what the rig tells Prometheus.
func (r *rig) told() string {
	r.t.Helper()
	rec := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(r.t.Context(), "GET", "/metrics", nil))
	return rec.Body.String()
}

// named is what a label may never have: it would be another series for each.
var namedID = regexp.MustCompile(`\{[^}]*(sb|acc|key|host|req|snap|wh)-[0-9a-f]{8}`)

// TestMeter: requests and operations are counted by class, kind and what came of them, and no label says of what.
func TestMeter(t *testing.T) {
	r := newLimitedRig(t, stacktest.ForTest(t), Limits{}, map[string]auth.Rate{ClassCreate: {PerSecond: 0.001, Burst: 2}})
	sb := r.create().ID
	path := "/v1/sandboxes/" + sb
	r.call("POST", path+"/pause", "")
	r.call("POST", path+"/fork", `{"count":0}`)                 // refused, and counted by the limit
	r.call("POST", "/v1/sandboxes", `{"template":"minimal"}`)   // one too many
	r.call("GET", "/v1/sandboxes/sb-00000000", "")              // none
	r.call("GET", "/v1/sandboxes/sb-00000001/files/secret", "") // likewise, for a guest
	r.call("GET", "/healthz", "")
	r.plain("GET", path+"/ports/65536/", "")
	r.plain("FOO", "/v1/whatever/"+sb, "")
	r.call("DELETE", path, "")
	text := r.told()
	for _, line := range []string{
		`wrenn_http_requests_total{class="create",status="201"} 1`, `wrenn_http_requests_total{class="create",status="400"} 1`, `wrenn_http_requests_total{class="create",status="429"} 1`,
		`wrenn_http_requests_total{class="read",status="404"} 1`, `wrenn_http_requests_total{class="guest",status="404"} 1`, `wrenn_http_requests_total{class="service",status="200"} 1`,
		`wrenn_http_requests_total{class="port",status="4xx"} 1`, `wrenn_http_requests_total{class="write",status="200"} 2`, `wrenn_http_request_duration_seconds_count{class="create"} 3`,
		`wrenn_rate_limit_refusals_total{class="create"} 1`, `wrenn_operations_total{kind="create",outcome="ok"} 1`, `wrenn_operations_total{kind="pause",outcome="ok"} 1`,
		`wrenn_operations_total{kind="destroy",outcome="ok"} 1`, `wrenn_operation_duration_seconds_count{kind="create"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is not told", line)
		}
	}
	if found := namedID.FindString(text); found != "" || strings.Contains(text, "secret") || strings.Contains(text, "FOO") {
		t.Errorf("a label has what clients choose: %s", found)
	}
	if t.Failed() {
		t.Log(text)
	}
}
