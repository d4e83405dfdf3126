package wrenn

import (
	"net/http"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		answer(w, http.StatusOK, `{"from":"2026-03-01T00:00:00.000Z","to":"2026-03-02T00:00:00.000Z",
			"total":{"vcpu_seconds":3600.25,"memory_gib_seconds":900,"stored_gib_hours":{"paused":1.5,"hibernated":2,"snapshot":0.000000001}},
			"items":[{"day":null,"sandbox_id":"sb-01234567","used":{"vcpu_seconds":1,"memory_gib_seconds":0,"stored_gib_hours":{"paused":0,"hibernated":0,"snapshot":0}}}],"next_cursor":"sb-01234567"}`)
	})
	u, err := c.Usage(t.Context(), UsageOptions{})
	if err != nil || u.Total.VCPUSeconds != 3600.25 || u.Total.StoredGiBHours != (UsageStored{1.5, 2, 1e-9}) || u.Items[0].SandboxID != testID || u.Items[0].Day != "" || u.NextCursor != testID {
		t.Errorf("%+v, %v", u, err)
	}
	from := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if _, err := c.Usage(t.Context(), UsageOptions{From: from, To: from.AddDate(0, 1, 0), By: UsageBySandbox, Limit: 7, Cursor: testID}); err != nil {
		t.Error(err)
	}
	if want := "/v1/usage?by=sandbox&cursor=sb-01234567&from=2026-03-01T00%3A00%3A00Z&limit=7&to=2026-04-01T00%3A00%3A00Z"; asked[0] != "/v1/usage" || asked[1] != want {
		t.Errorf("asked %q", asked)
	}
}
