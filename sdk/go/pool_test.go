package wrenn

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestPool(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/pool" {
			t.Errorf("asked %s", r.URL)
		}
		answer(w, http.StatusOK, `{"vcpus":{"limit":8,"used":3},"memory_mib":{"limit":null,"used":768},"disk_mib":{"limit":0,"used":0},"sandboxes":{"limit":2,"used":2}}`)
	})
	p, err := c.Pool(t.Context())
	if err != nil || *p.VCPUs.Limit != 8 || p.VCPUs.Used != 3 || p.MemoryMiB.Limit != nil || *p.DiskMiB.Limit != 0 || p.Sandboxes.Used != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestWait: what may wait says so, in whole seconds, and does not give up before its time.
func TestWait(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		if strings.HasSuffix(r.URL.Path, "/fork") {
			answer(w, http.StatusCreated, `{"items":[]}`)
			return
		}
		answer(w, http.StatusOK, sandboxJSON)
	})
	c.opts.Timeout = -time.Hour // only what waits has time
	if _, err := c.CreateSandbox(t.Context(), CreateSandboxRequest{Template: "minimal", Wait: 2 * time.Hour}); err != nil {
		t.Error(err)
	}
	if _, err := c.ForkSandbox(t.Context(), testID, ForkRequest{Count: 2, Wait: 2*time.Hour + time.Millisecond}); err != nil {
		t.Error(err)
	}
	if _, err := c.ResumeSandboxWithin(t.Context(), testID, 2*time.Hour); err != nil {
		t.Error(err)
	}
	if _, err := c.ResumeSandbox(t.Context(), testID); CodeOf(err) != Deadline {
		t.Errorf("without time: %v", err)
	}
	want := "/v1/sandboxes?wait_seconds=7200, /v1/sandboxes/sb-01234567/fork?wait_seconds=7201, /v1/sandboxes/sb-01234567/resume?wait_seconds=7200"
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("asked %s", got)
	}
}
