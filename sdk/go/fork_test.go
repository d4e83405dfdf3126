package wrenn

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

const snapshotJSON = `{"id":"snap-01234567","name":"n","state":"ready","state_reason":null,"sandbox_id":"sb-01234567","parent_id":null,"template":"minimal","vcpus":1,
"memory_mib":256,"disk_mib":512,"network":{"generation":0,"internet":"on","allow":[],"deny":[],"limits":{}},"host_id":"host-01234567","bytes":7,"created_at":"2026-01-02T03:04:05.678Z"}`

// TestForkAndSnapshots: what is asked, and what is made of the answers.
func TestForkAndSnapshots(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(body)))
		switch {
		case strings.HasSuffix(r.URL.Path, "/fork"):
			answer(w, http.StatusCreated, `{"items":[`+strings.Replace(sandboxJSON, `"generation"`, `"parent_id":"sb-0000000a","snapshot_id":null,"generation"`, 1)+`]}`)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/v1/snapshots" && r.URL.Query().Get("cursor") == "":
			answer(w, http.StatusOK, `{"items":[`+snapshotJSON+`],"next_cursor":"c"}`)
		case r.URL.Path == "/v1/snapshots":
			answer(w, http.StatusOK, `{"items":[`+snapshotJSON+`],"next_cursor":null}`)
		default:
			answer(w, http.StatusOK, snapshotJSON)
		}
	})
	ctx := t.Context()
	if made, err := c.ForkSandbox(ctx, testID, ForkRequest{Count: 2}); err != nil || len(made) != 1 || made[0].ParentID != "sb-0000000a" {
		t.Errorf("fork: %+v, %v", made, err)
	}
	if s, err := c.CreateSnapshot(ctx, testID, "n"); err != nil || s.State != SnapshotReady || s.SandboxID != testID || s.Bytes != 7 || s.ParentID != "" {
		t.Errorf("create: %+v, %v", s, err)
	}
	if s, err := c.GetSnapshot(ctx, "snap-01234567"); err != nil || s.Name != "n" {
		t.Errorf("get: %+v, %v", s, err)
	}
	found := 0
	for s, err := range c.AllSnapshots(ctx, SnapshotListOptions{Sandbox: testID}) {
		if err != nil || s.ID == "" {
			t.Errorf("list: %+v, %v", s, err)
		}
		found++
	}
	if err := c.DeleteSnapshot(ctx, "snap-01234567"); err != nil || found != 2 {
		t.Errorf("delete: %v; listed %d", err, found)
	}
	want := `POST /v1/sandboxes/sb-01234567/fork {"count":2}
POST /v1/sandboxes/sb-01234567/snapshots {"name":"n"}
GET /v1/snapshots/snap-01234567
GET /v1/snapshots?sandbox=sb-01234567
GET /v1/snapshots?cursor=c&sandbox=sb-01234567
DELETE /v1/snapshots/snap-01234567`
	if got := strings.Join(asked, "\n"); got != want {
		t.Errorf("asked\n%s", got)
	}
	if _, err := c.GetSnapshot(ctx, "../x"); CodeOf(err) != Invalid {
		t.Errorf("what is no id: %v", err)
	}
	if err := c.DeleteSnapshot(ctx, "a/b"); CodeOf(err) != Invalid {
		t.Errorf("what is no id: %v", err)
	}
	if _, err := c.ForkSandbox(ctx, testID, ForkRequest{Metadata: map[string]string{"a": "\xff"}}); CodeOf(err) != Invalid {
		t.Errorf("metadata that is not UTF-8: %v", err)
	}
}
