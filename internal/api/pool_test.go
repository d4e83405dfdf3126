package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func (r *rig) pool() map[string]shareView {
	r.t.Helper()
	return decoded[map[string]shareView](r.t, r.call("GET", "/v1/pool", ""), http.StatusOK)
}

// TestPoolOverREST: what there is and what is used; a refusal says what was short; whoever waits is served.
func TestPoolOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create()
	if p := r.pool(); p["vcpus"].Limit != nil || p["vcpus"].Used != 1 || p["memory_mib"].Used != int64(sb.MemoryMiB) || p["disk_mib"].Used != int64(sb.DiskMiB) || p["sandboxes"].Used != 1 {
		t.Errorf("without limits: %+v", p)
	}
	account, err := r.store.AccountNamed(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	two := int64(2)
	if err := r.store.SetPool(t.Context(), account, db.By{Actor: "operator"}, db.PoolChange{Sandboxes: &two}); err != nil {
		t.Fatal(err)
	}
	if p := r.pool(); *p["sandboxes"].Limit != 2 {
		t.Errorf("with a limit: %+v", p)
	}
	path := "/v1/sandboxes/" + sb.ID
	e := decoded[errorAnswer](t, r.call("POST", path+"/fork", `{"count":2}`), http.StatusTooManyRequests).Error
	if e.Code != models.Exhausted || !strings.Contains(e.Message, "2 running sandboxes asked for, 1 of 2 used") || !strings.Contains(e.Hint, "wait_seconds") {
		t.Errorf("a fork for which there is no room: %+v", e)
	}
	r.create()
	for _, ask := range []struct{ path, body string }{{"/v1/sandboxes?wait_seconds=0", `{"template":"minimal"}`}, {path + "/fork?wait_seconds=1", `{}`}} {
		if a := r.call("POST", ask.path, ask.body); a.status != http.StatusTooManyRequests {
			t.Errorf("%s: %d %s", ask.path, a.status, a.body)
		}
	}
	served := make(chan answer)
	go func() {
		_, a := r.do(r.request("POST", "/v1/sandboxes?wait_seconds=600", `{"template":"minimal"}`))
		served <- a
	}()
	if a := r.call("POST", path+"/pause", ""); a.status != http.StatusOK {
		t.Errorf("pause: %d %s", a.status, a.body)
	}
	if a := <-served; a.status != http.StatusCreated {
		t.Errorf("who has waited: %d %s", a.status, a.body)
	}
	if a := r.call("POST", path+"/resume", ""); a.status != http.StatusTooManyRequests {
		t.Errorf("a resume without room: %d %s", a.status, a.body)
	}
	if a := r.call("POST", path+"/exec", `{"shell":"true"}`); a.status != http.StatusTooManyRequests {
		t.Errorf("a request to one that sleeps, without room: %d %s", a.status, a.body)
	}
}

func TestBadWaits(t *testing.T) {
	r := newRig(t, Limits{})
	for _, bad := range []string{"wait_seconds=-1", "wait_seconds=601", "wait_seconds=", "wait_seconds=1.5", "wait_seconds=soon", "wait_seconds=1&wait_seconds=2", "wait=1"} {
		for _, path := range []string{"/v1/sandboxes", "/v1/sandboxes/sb-00000001/fork", "/v1/sandboxes/sb-00000001/resume"} {
			if a := r.call("POST", path+"?"+bad, `{}`); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "wait") {
				t.Errorf("%s?%s: %d %s", path, bad, a.status, a.body)
			}
		}
	}
}
