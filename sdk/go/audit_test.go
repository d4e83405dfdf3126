package wrenn

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAudit(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		next := map[bool]string{true: "null", false: `"7"`}[r.URL.Query().Has("cursor")]
		answer(w, http.StatusOK, `{"items":[{"id":7,"actor":"key-00000001","action":"sandbox.create","target":"sb-01234567","outcome":"ok","request_id":"r","at":"2026-01-02T03:04:05.678Z"}],"next_cursor":`+next+`}`)
	})
	n := 0
	for e, err := range c.Audit(t.Context(), AuditOptions{Target: testID, Since: time.Unix(0, 0)}) {
		if n++; err != nil || e.ID != 7 || e.Action != "sandbox.create" || e.At.IsZero() {
			t.Errorf("%+v, %v", e, err)
		}
	}
	want := "/v1/audit?since=1970-01-01T00%3A00%3A00Z&target=sb-01234567 /v1/audit?cursor=7&since=1970-01-01T00%3A00%3A00Z&target=sb-01234567"
	if got := strings.Join(asked, " "); n != 2 || got != want {
		t.Errorf("%d events; asked %s", n, got)
	}
}
