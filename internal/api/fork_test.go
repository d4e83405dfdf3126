package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type originAnswer struct {
	ID        string            `json:"id"`
	State     models.State      `json:"state"`
	MemoryMiB int               `json:"memory_mib"`
	Metadata  map[string]string `json:"metadata"`
	Parent    *string           `json:"parent_id"`
	Snapshot  *string           `json:"snapshot_id"`
	Network   struct {
		Internet string `json:"internet"`
	} `json:"network"`
	Resumed *struct{} `json:"resumed"`
}

// TestForkOverREST: children bear their parent's marks, and their own where the request has some.
func TestForkOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	parent := decoded[originAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal","memory_mib":512,"metadata":{"a":"b"},"network":{"internet":"off"}}`), http.StatusCreated)
	if parent.Parent != nil || parent.Snapshot != nil {
		t.Errorf("made of a template it is %+v", parent)
	}
	type list struct{ Items []originAnswer }
	got := decoded[list](t, r.call("POST", "/v1/sandboxes/"+parent.ID+"/fork", `{"count":3}`), http.StatusCreated)
	if len(got.Items) != 3 {
		t.Fatalf("there are %d children", len(got.Items))
	}
	for _, c := range got.Items {
		if c.State != models.Running || *c.Parent != parent.ID || c.Metadata["a"] != "b" || c.MemoryMiB != 512 || c.Network.Internet != "off" || c.Resumed == nil {
			t.Errorf("a child is %+v", c)
		}
	}
	again := decoded[list](t, r.call("POST", "/v1/sandboxes/"+got.Items[0].ID+"/fork", `{"metadata":{}}`), http.StatusCreated)
	if len(again.Items) != 1 || *again.Items[0].Parent != got.Items[0].ID || len(again.Items[0].Metadata) != 0 {
		t.Errorf("a grandchild is %+v", again)
	}
}

type snapshotAnswer struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	State    string  `json:"state"`
	Sandbox  string  `json:"sandbox_id"`
	Parent   *string `json:"parent_id"`
	Template string  `json:"template"`
	Bytes    *int64  `json:"bytes"`
}

// TestSnapshotsOverREST: made, listed by pages, created from when its sandbox is gone, deleted.
func TestSnapshotsOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	sb := decoded[originAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal","network":{"internet":"off"}}`), http.StatusCreated).ID
	var made []snapshotAnswer
	for i := range 3 {
		made = append(made, decoded[snapshotAnswer](t, r.call("POST", "/v1/sandboxes/"+sb+"/snapshots", fmt.Sprintf(`{"name":"n%d"}`, i)), http.StatusCreated))
	}
	if one := made[1]; one.State != "ready" || one.Sandbox != sb || *one.Parent != made[0].ID || one.Template != "minimal" || *one.Bytes == 0 {
		t.Errorf("a snapshot is %+v", one)
	}
	r.call("DELETE", "/v1/sandboxes/"+sb, "")
	type list struct {
		Items []snapshotAnswer
		Next  *string `json:"next_cursor"`
	}
	page := decoded[list](t, r.call("GET", "/v1/snapshots?limit=2&sandbox="+sb, ""), http.StatusOK)
	if len(page.Items) != 2 || page.Items[0].ID != made[2].ID || page.Next == nil {
		t.Fatalf("the first page is %+v", page)
	}
	last := decoded[list](t, r.call("GET", "/v1/snapshots?limit=2&cursor="+*page.Next, ""), http.StatusOK)
	if len(last.Items) != 1 || last.Items[0].ID != made[0].ID || last.Next != nil {
		t.Errorf("the last page is %+v", last)
	}
	if none := decoded[list](t, r.call("GET", "/v1/snapshots?sandbox=sb-00000000", ""), http.StatusOK); len(none.Items) > 0 {
		t.Errorf("of another sandbox there are %+v", none)
	}
	child := decoded[originAnswer](t, r.call("POST", "/v1/sandboxes", `{"snapshot":"`+made[2].ID+`"}`), http.StatusCreated)
	if *child.Snapshot != made[2].ID || child.Parent != nil || child.Network.Internet != "off" {
		t.Errorf("created from a snapshot it is %+v", child)
	}
	of := decoded[snapshotAnswer](t, r.call("POST", "/v1/sandboxes/"+child.ID+"/snapshots", `{"name":"of a child"}`), http.StatusCreated)
	if of.Parent == nil || *of.Parent != made[2].ID {
		t.Errorf("a snapshot of what was created from one is %+v", of)
	}
	path := "/v1/snapshots/" + made[2].ID
	if a := r.call("DELETE", path, ""); a.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if a := r.call(method, path, ""); a.status != http.StatusNotFound {
			t.Errorf("%s of a deleted one: %d %s", method, a.status, a.body)
		}
	}
	if a := r.call("POST", "/v1/sandboxes", `{"snapshot":"`+made[2].ID+`"}`); a.status != http.StatusNotFound {
		t.Errorf("create from a deleted one: %d %s", a.status, a.body)
	}
}

// TestBadForksAndSnapshots: each is refused with its code and a word on why.
func TestBadForksAndSnapshots(t *testing.T) {
	r := newRig(t, Limits{})
	sb := "/v1/sandboxes/" + r.create().ID
	ended := "/v1/sandboxes/" + r.create().ID
	r.call("DELETE", ended, "")
	for _, c := range []struct {
		what, body string
		status     int
		code       models.Code
		says       string
	}{
		{"POST " + sb + "/fork", `{"count":0}`, 400, models.Invalid, "between 1 and 16"},
		{"POST " + sb + "/fork", `{"count":17}`, 400, models.Invalid, "between 1 and 16"},
		{"POST " + sb + "/fork", `{"count":"2"}`, 400, models.Invalid, "count"},
		{"POST " + sb + "/fork", `{"n":1}`, 400, models.Invalid, `"n"`},
		{"POST " + sb + "/fork", `{"metadata":{"":"x"}}`, 400, models.Invalid, "metadata"},
		{"POST " + sb + "/fork", `[]`, 400, models.Invalid, "object"},
		{"POST " + sb + "/fork?x=1", `{}`, 400, models.Invalid, `"x"`},
		{"POST " + ended + "/fork", `{}`, 409, models.Precondition, "stopped"},
		{"POST /v1/sandboxes/sb-00000000/fork", `{}`, 404, models.NotFound, "sb-00000000"},
		{"POST /v1/sandboxes/x/fork", `{}`, 400, models.Invalid, "sb-xxxxxxxx"},
		{"POST " + sb + "/snapshots", `{}`, 400, models.Invalid, "name"},
		{"POST " + sb + "/snapshots", `{"name":"a\u0007"}`, 400, models.Invalid, "control"},
		{"POST " + ended + "/snapshots", `{"name":"x"}`, 409, models.Precondition, "stopped"},
		{"POST /v1/sandboxes/sb-00000000/snapshots", `{"name":"x"}`, 404, models.NotFound, "sb-00000000"},
		{"GET /v1/snapshots/x", "", 400, models.Invalid, "snap-xxxxxxxx"},
		{"GET /v1/snapshots/snap-00000000", "", 404, models.NotFound, "snap-00000000"},
		{"DELETE /v1/snapshots/snap-00000000", "", 404, models.NotFound, "snap-00000000"},
		{"GET /v1/snapshots?limit=0", "", 400, models.Invalid, "limit"},
		{"GET /v1/snapshots?cursor=x", "", 400, models.Invalid, "cursor"},
		{"GET /v1/snapshots?sandbox=x", "", 400, models.Invalid, "sb-xxxxxxxx"},
		{"POST /v1/sandboxes", `{"snapshot":"x"}`, 400, models.Invalid, "snap-xxxxxxxx"},
		{"POST /v1/sandboxes", `{"snapshot":"snap-00000000"}`, 404, models.NotFound, "snap-00000000"},
		{"POST /v1/sandboxes", `{"snapshot":"snap-00000000","template":"minimal"}`, 400, models.Invalid, "excludes"},
		{"POST /v1/sandboxes", `{"snapshot":"snap-00000000","memory_mib":512}`, 400, models.Invalid, "excludes"},
	} {
		var method, path string
		_, _ = fmt.Sscan(c.what, &method, &path)
		e := decoded[errorAnswer](t, r.call(method, path, c.body), c.status).Error
		if e.Code != c.code || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s %s: %+v, want %s with %q", c.what, c.body, e, c.code, c.says)
		}
	}
}
