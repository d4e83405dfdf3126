package api

import (
	"net/http"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type sleeperAnswer struct {
	ID         string       `json:"id"`
	State      models.State `json:"state"`
	AutoResume bool         `json:"auto_resume"`
	Resumed    *struct {
		Steps []certificateStepView `json:"steps"`
	} `json:"resumed"`
}

// TestSleepOverREST: pause and resume, each twice; a request that wakes, and one that may not.
func TestSleepOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	path := "/v1/sandboxes/" + r.create().ID
	for _, c := range []struct {
		verb string
		want models.State
	}{{"/pause", models.Paused}, {"/pause", models.Paused}, {"/resume", models.Running}, {"/resume", models.Running}, {"/pause", models.Paused}} {
		if got := decoded[sleeperAnswer](t, r.call("POST", path+c.verb, ""), http.StatusOK); got.State != c.want {
			t.Errorf("%s: %+v", c.verb, got)
		}
	}
	if list := r.list("?state=paused"); len(list.Items) != 1 {
		t.Errorf("paused are %+v", list)
	}
	if a := r.call("POST", path+"/exec", `{"shell":"exit 3"}`); a.status != http.StatusOK {
		t.Errorf("exec: %d %s", a.status, a.body)
	}
	got := decoded[sleeperAnswer](t, r.call("GET", path, ""), http.StatusOK)
	if got.State != models.Running || !got.AutoResume || got.Resumed == nil || len(got.Resumed.Steps) != 3 || *got.Resumed.Steps[2].Output != "hello" {
		t.Errorf("woken by a request: %+v", got)
	}

	manual := decoded[sleeperAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal","auto_resume":false}`), http.StatusCreated)
	path = "/v1/sandboxes/" + manual.ID
	r.call("POST", path+"/pause", "")
	if a := r.call("POST", path+"/exec", `{"shell":"true"}`); a.status != http.StatusConflict {
		t.Errorf("exec in one that its user resumes: %d %s", a.status, a.body)
	}
	if a := r.call("DELETE", path, ""); a.status != http.StatusOK {
		t.Errorf("destroy of a paused sandbox: %d %s", a.status, a.body)
	}
	if a := r.call("POST", path+"/resume", ""); a.status != http.StatusConflict {
		t.Errorf("resume of a destroyed sandbox: %d %s", a.status, a.body)
	}
	if a := r.call("POST", "/v1/sandboxes/sb-00000000/pause", ""); a.status != http.StatusNotFound {
		t.Errorf("pause of nothing: %d %s", a.status, a.body)
	}
}

type storedAnswer struct {
	sleeperAnswer
	Host    *string `json:"host_id"`
	Archive *struct {
		SentBytes int64 `json:"sent_bytes"`
	} `json:"archive"`
}

// TestHibernateOverREST: twice, from running; the way back by a request and by a resume; a host without an object store says so.
func TestHibernateOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	path := "/v1/sandboxes/" + r.create().ID
	for range 2 {
		got := decoded[storedAnswer](t, r.call("POST", path+"/hibernate", ""), http.StatusOK)
		if got.State != models.Hibernated || got.Host != nil || got.Archive == nil || got.Archive.SentBytes != 7 {
			t.Errorf("hibernated: %+v", got)
		}
	}
	if list := r.list("?state=hibernated"); len(list.Items) != 1 {
		t.Errorf("hibernated are %+v", list)
	}
	if a := r.call("GET", path+"/network", ""); a.status != http.StatusConflict {
		t.Errorf("its network: %d %s", a.status, a.body)
	}
	if a := r.call("POST", path+"/exec", `{"shell":"exit 3"}`); a.status != http.StatusOK {
		t.Errorf("exec: %d %s", a.status, a.body)
	}
	r.call("POST", path+"/hibernate", "")
	if got := decoded[storedAnswer](t, r.call("POST", path+"/resume", ""), http.StatusOK); got.State != models.Running || got.Host == nil {
		t.Errorf("resumed: %+v", got)
	}
	r.sim.Objects().Down(models.Errorf(models.Precondition, "there is no object store"))
	if a := r.call("POST", path+"/hibernate", ""); a.status != http.StatusConflict {
		t.Errorf("without an object store: %d %s", a.status, a.body)
	}
	if a := r.call("POST", "/v1/sandboxes/sb-00000000/hibernate", ""); a.status != http.StatusNotFound {
		t.Errorf("hibernate of nothing: %d %s", a.status, a.body)
	}
}
