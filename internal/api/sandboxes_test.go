package api

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

func TestLifeOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	a := r.call("POST", "/v1/sandboxes", `{"template":"python311","vcpus":2,"memory_mib":1024,"disk_mib":2048,
		"env":{"A":"b"},"metadata":{"team":"ü 漢 🙂"},"name":"first"}`)
	made := decoded[sandboxAnswer](t, a, http.StatusCreated)
	if a.header.Get("Location") != "/v1/sandboxes/"+made.ID {
		t.Errorf("Location %q", a.header.Get("Location"))
	}
	if made.State != models.Running || *made.Name != "first" || made.VCPUs != 2 || made.MemoryMiB != 1024 ||
		made.DiskMiB != 2048 || made.Metadata["team"] != "ü 漢 🙂" || made.StartedAt == nil || len(made.Timings) != 3 {
		t.Errorf("created %s", a.body)
	}
	got := decoded[sandboxAnswer](t, r.call("GET", "/v1/sandboxes/"+made.ID, ""), http.StatusOK)
	if got.State != models.Running || got.Generation != made.Generation {
		t.Errorf("read %+v", got)
	}
	if logs := r.call("GET", "/v1/sandboxes/"+made.ID+"/logs", ""); string(logs.body) != "booting \uFFFD\nready\n" {
		t.Errorf("logs %q", logs.body)
	}
	for range 2 {
		gone := decoded[sandboxAnswer](t, r.call("DELETE", "/v1/sandboxes/"+made.ID, ""), http.StatusOK)
		if gone.State != models.Stopped {
			t.Errorf("destroyed %+v", gone)
		}
	}
	if logs := r.call("GET", "/v1/sandboxes/"+made.ID+"/logs", ""); logs.status != http.StatusOK || len(logs.body) != 0 {
		t.Errorf("logs of what is gone: %d %q", logs.status, logs.body)
	}
	events := decoded[struct {
		Items []eventRead `json:"items"`
	}](t, r.call("GET", "/v1/sandboxes/"+made.ID+"/events", ""), http.StatusOK).Items
	var path []models.State
	for _, e := range events {
		path = append(path, e.To)
		if !strings.HasPrefix(e.Actor, "key-") {
			t.Errorf("actor %q", e.Actor)
		}
	}
	want := []models.State{models.Pending, models.Starting, models.Running, models.Stopping, models.Stopped}
	if !slices.Equal(path, want) || events[0].From != nil {
		t.Errorf("events %v, want %v", path, want)
	}
}

type eventRead struct {
	From  *models.State `json:"from"`
	To    models.State  `json:"to"`
	Actor string        `json:"actor"`
}

func TestDefaultsOfATemplate(t *testing.T) {
	r := newRig(t, Limits{})
	small := r.create()
	if small.VCPUs != 1 || small.MemoryMiB != 256 || small.DiskMiB != 512 || small.Name != nil || small.Metadata == nil {
		t.Errorf("minimal: %+v", small)
	}
	python := decoded[sandboxAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"python311"}`), http.StatusCreated)
	if python.MemoryMiB != 512 || python.DiskMiB != 1024 {
		t.Errorf("python311: %+v", python)
	}
	items := decoded[struct {
		Items []templateView `json:"items"`
	}](t, r.call("GET", "/v1/templates", ""), http.StatusOK).Items
	if len(items) != 2 || items[0].Name != "minimal" || items[0].DefaultMemoryMiB != 256 || items[1].DefaultMemoryMiB != 512 {
		t.Errorf("templates %+v", items)
	}
}

type listAnswer struct {
	Items []sandboxAnswer `json:"items"`
	Next  *string         `json:"next_cursor"`
}

func (r *rig) list(query string) listAnswer {
	r.t.Helper()
	return decoded[listAnswer](r.t, r.call("GET", "/v1/sandboxes"+query, ""), http.StatusOK)
}

func ids(items []sandboxAnswer) []string {
	out := make([]string, len(items))
	for i, sb := range items {
		out[i] = sb.ID
	}
	return out
}

func TestList(t *testing.T) {
	r := newRig(t, Limits{})
	var all []string
	for range 5 {
		all = append(all, r.create().ID)
	}
	slices.Reverse(all)
	if got := r.list(""); !slices.Equal(ids(got.Items), all) || got.Next != nil {
		t.Errorf("list %v, next %v; want %v", ids(got.Items), got.Next, all)
	}
	var paged []string
	query := "?limit=2"
	for {
		page := r.list(query)
		paged = append(paged, ids(page.Items)...)
		if page.Next == nil {
			break
		}
		query = "?limit=2&cursor=" + *page.Next
		if len(paged) == 2 { // what comes meanwhile does not move the pages
			r.create()
		}
	}
	if !slices.Equal(paged, all) {
		t.Errorf("pages %v, want %v", paged, all)
	}
	decoded[sandboxAnswer](t, r.call("DELETE", "/v1/sandboxes/"+all[0], ""), http.StatusOK)
	if got := r.list("?state=stopped"); !slices.Equal(ids(got.Items), all[:1]) {
		t.Errorf("stopped: %v", ids(got.Items))
	}
	if got := r.list(""); slices.Contains(ids(got.Items), all[0]) {
		t.Error("a stopped sandbox is listed without having been asked for")
	}
	if got := r.list("?state=stopped&state=running"); len(got.Items) != 6 {
		t.Errorf("%d stopped or running, want 6", len(got.Items))
	}
	if got := r.list("?template=python311"); len(got.Items) != 0 || got.Items == nil {
		t.Errorf("filter by template: %+v", got)
	}
}

// TestMetadata: labels can be changed in every state, and lists be asked for them.
func TestMetadata(t *testing.T) {
	r := newRig(t, Limits{})
	labelled := func(labels string) string {
		return decoded[sandboxAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal","metadata":`+labels+`}`), http.StatusCreated).ID
	}
	red, both := labelled(`{"team":"red"}`), labelled(`{"team":"red","a b.c":"ü=&"}`)
	labelled(`{}`)
	for query, want := range map[string][]string{
		"?metadata.team=red": {both, red}, "?metadata.team=red&metadata.a%20b.c=%C3%BC%3D%26": {both}, "?metadata.team=blue": {}, "?metadata.team=": {},
		"?metadata.team=red&limit=1&template=minimal": {both},
	} {
		if got := ids(r.list(query).Items); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	r.call("POST", "/v1/sandboxes/"+both+"/pause", "")
	changed := decoded[sandboxAnswer](t, r.call("PATCH", "/v1/sandboxes/"+both, `{"metadata":{"team":"blue"}}`), http.StatusOK)
	if len(changed.Metadata) != 1 || changed.Metadata["team"] != "blue" || changed.State != models.Paused {
		t.Errorf("changed to %+v", changed)
	}
	if got := ids(r.list("?metadata.team=blue").Items); !slices.Equal(got, []string{both}) {
		t.Errorf("blue are %v", got)
	}
	r.call("DELETE", "/v1/sandboxes/"+both, "")
	if now := decoded[sandboxAnswer](t, r.call("PATCH", "/v1/sandboxes/"+both, `{"metadata":{}}`), http.StatusOK); len(now.Metadata) != 0 || now.Metadata == nil {
		t.Errorf("of one that is stopped: %+v", now)
	}
}

// TestAccountsDoNotSeeEachOther: for another account's key there is no such sandbox, in any call.
func TestAccountsDoNotSeeEachOther(t *testing.T) {
	r := newRig(t, Limits{})
	sb := "/v1/sandboxes/" + r.create().ID
	foreign := r.newKey("other")
	snapshot := "/v1/snapshots/" + decoded[snapshotAnswer](t, r.call("POST", sb+"/snapshots", `{"name":"n"}`), http.StatusCreated).ID
	for _, c := range []struct{ method, path, body string }{
		{"GET", sb, ""}, {"DELETE", sb, ""}, {"POST", sb + "/exec", `{"cmd":"true"}`},
		{"GET", sb + "/files?path=/x", ""}, {"PUT", sb + "/files/x", "content"},
		{"GET", sb + "/logs", ""}, {"GET", sb + "/events", ""},
		{"POST", sb + "/fork", "{}"}, {"POST", sb + "/snapshots", `{"name":"x"}`}, {"GET", snapshot, ""}, {"DELETE", snapshot, ""},
		{"POST", "/v1/sandboxes", `{"snapshot":"` + path.Base(snapshot) + `"}`},
	} {
		a := r.call(c.method, c.path, c.body, auth.Header, string(foreign))
		if e := decoded[errorAnswer](t, a, http.StatusNotFound).Error; e.Code != models.NotFound {
			t.Errorf("%s %s: %+v", c.method, c.path, e)
		}
	}
	list := decoded[listAnswer](t, r.call("GET", "/v1/sandboxes", "", auth.Header, string(foreign)), http.StatusOK)
	kept := decoded[listAnswer](t, r.call("GET", "/v1/snapshots", "", auth.Header, string(foreign)), http.StatusOK)
	if len(list.Items)+len(kept.Items) != 0 {
		t.Errorf("another account lists %v", ids(list.Items))
	}
	if got := decoded[sandboxAnswer](t, r.call("GET", sb, ""), http.StatusOK); got.State != models.Running {
		t.Errorf("the sandbox is %s", got.State)
	}
}

func TestUseOfWhatDoesNotRun(t *testing.T) {
	r := newRig(t, Limits{})
	stopped, failed := r.create().ID, r.create().ID
	r.call("DELETE", "/v1/sandboxes/"+stopped, "")
	r.sim.Put(failed, pb.SandboxState_SANDBOX_STATE_FAILED, "guest panic")
	r.eventually("the failure is noted", func() bool { return len(r.list("?state=error").Items) == 1 })
	for sb, want := range map[string]string{stopped: "stopped", failed: "guest panic"} {
		for _, path := range []string{"/exec", "/files/x"} {
			method, body := "POST", `{"cmd":"true"}`
			if path != "/exec" {
				method, body = "GET", ""
			}
			e := decoded[errorAnswer](t, r.call(method, "/v1/sandboxes/"+sb+path, body), http.StatusConflict).Error
			if e.Code != models.Precondition || !strings.Contains(e.Message+e.Hint, want) {
				t.Errorf("%s of a sandbox that is %s: %+v", path, want, e)
			}
		}
	}
}

func TestExhausted(t *testing.T) {
	r := newRig(t, Limits{})
	e := decoded[errorAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal","disk_mib":1048576}`), http.StatusCreated)
	_ = e // the whole disk once
	var last answer
	for range 4 { // the default is to promise it four times
		last = r.call("POST", "/v1/sandboxes", `{"template":"minimal","disk_mib":1048576}`)
	}
	if e := decoded[errorAnswer](t, last, http.StatusTooManyRequests).Error; e.Code != models.Exhausted || !strings.Contains(e.Message, "MiB of disk") {
		t.Errorf("%+v", e)
	}
	if n := len(r.list("").Items); n != 4 {
		t.Errorf("%d sandboxes, want 4", n)
	}
}

func TestAgentsErrorsReachTheUser(t *testing.T) {
	r := newRig(t, Limits{})
	for code, status := range map[models.Code]int{
		models.Invalid: 400, models.Exhausted: 429, models.Unavailable: 503, models.Deadline: 504, models.Internal: 500,
		models.Precondition: 409, models.Conflict: 409,
	} {
		r.sim.OnCreate(func(_ context.Context, _ *pb.CreateSandboxRequest) error {
			return models.Errorf(code, "because of %s", code).WithHint("do something").WithCause(fmt.Errorf("/etc/secret"))
		}, nil)
		a := r.call("POST", "/v1/sandboxes", `{"template":"minimal"}`)
		e := decoded[errorAnswer](t, a, status).Error
		if e.Code != code || !strings.Contains(e.Message, "because of "+string(code)) || e.Hint != "do something" {
			t.Errorf("%s: %+v", code, e)
		}
		if strings.Contains(string(a.body), "/etc/secret") {
			t.Errorf("%s: the cause reached the user: %s", code, a.body)
		}
		if after := a.header.Get("Retry-After"); after != "" {
			t.Errorf("%d, which leaves a sandbox behind, says Retry-After %q", status, after)
		}
	}
	r.sim.OnCreate(nil, nil)
	if n := len(r.list("?state=error").Items); n != 7 {
		t.Errorf("%d sandboxes in state error, want 7", n)
	}
}
