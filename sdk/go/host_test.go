package wrenn

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestHosts(t *testing.T) {
	const host = `{"id":"host-00000001","name":"one","address":"10.0.0.7:9000","state":"draining","state_reason":null,"state_since":"2026-01-02T03:04:05.678Z","drain":{"evict":true,"leaving":2,"staying":0,"done":false},
		"vcpus":{"capacity":4,"overcommit":16,"promised":2},"memory_mib":{"capacity":4096,"overcommit":1,"promised":512},"disk_mib":{"capacity":8192,"overcommit":4,"promised":1024},
		"sandboxes":{"running":2,"sleeping":0},"snapshots":1,"templates":[{"name":"minimal","digest":"sha256:1","warm":true}],"agent_version":"1","driver":"qemu","driver_version":"7.2","accelerator":"kvm",
		"object_store":true,"last_seen_at":"2026-01-02T03:04:05.678Z","created_at":"2026-01-02T03:04:05.678Z","joined_at":null,"certificate_until":null}`
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = append(asked, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(b)))
		next := map[bool]string{true: "null", false: `"n"`}[r.URL.Query().Has("cursor")]
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/v1/hosts/tokens" && r.Method == http.MethodGet:
			answer(w, http.StatusOK, `{"items":[{"id":"token-0123456789abcdef","host_id":"host-00000001","created_at":"2026-01-02T02:04:05.678Z","expires_at":"2026-01-02T03:04:05.678Z"}],"next_cursor":`+next+`}`)
		case r.URL.Path == "/v1/hosts/tokens":
			answer(w, http.StatusCreated, `{"id":"token-0123456789abcdef","host_id":null,"created_at":"2026-01-02T02:04:05.678Z","expires_at":"2026-01-02T03:04:05.678Z","token":"wht_x"}`)
		case r.URL.Path == "/v1/hosts/audit":
			answer(w, http.StatusOK, `{"items":[{"id":7,"actor":"key-00000001","action":"host.drain","target":"host-00000001","outcome":"ok","detail":"evict","request_id":"r","at":"2026-01-02T03:04:05.678Z"}],"next_cursor":`+next+`}`)
		case r.URL.Path == "/v1/hosts":
			answer(w, http.StatusOK, `{"items":[`+host+`],"next_cursor":`+next+`}`)
		default:
			answer(w, http.StatusOK, host)
		}
	})
	const id = "host-00000001"
	for _, do := range []func() (*Host, error){
		func() (*Host, error) { return c.Host(t.Context(), id) }, func() (*Host, error) { return c.DrainHost(t.Context(), id, true) }, func() (*Host, error) { return c.UndrainHost(t.Context(), id) },
	} {
		h, err := do()
		if err != nil || h.ID != id || h.State != HostDraining || h.Drain == nil || h.Drain.Leaving != 2 || h.MemoryMiB != (HostRoom{4096, 1, 512}) || !h.Templates[0].Warm || h.Sandboxes.Running != 2 {
			t.Errorf("%+v, %v", h, err)
		}
	}
	for _, force := range []bool{false, true} {
		if err := c.RemoveHost(t.Context(), id, force); err != nil {
			t.Error(err)
		}
	}
	for host, ttl := range map[string]time.Duration{"": 0, id: 90 * time.Second} {
		if token, err := c.CreateHostToken(t.Context(), host, ttl); err != nil || token.Token != "wht_x" || token.ID != "token-0123456789abcdef" {
			t.Errorf("%+v, %v", token, err)
		}
	}
	if err := c.RevokeHostToken(t.Context(), "token-0123456789abcdef"); err != nil {
		t.Error(err)
	}
	n := 0
	for token, err := range c.HostTokens(t.Context()) {
		if n++; err != nil || token.ID != "token-0123456789abcdef" || token.HostID != id || token.Token != "" || token.ExpiresAt.Sub(token.CreatedAt) != time.Hour {
			t.Errorf("%+v, %v", token, err)
		}
	}
	for h, err := range c.Hosts(t.Context(), HostDown, HostDraining) {
		if n++; err != nil || h.ID != id {
			t.Errorf("%+v, %v", h, err)
		}
	}
	for e, err := range c.HostAudit(t.Context(), AuditOptions{Target: id}) {
		if n++; err != nil || e.Action != "host.drain" || e.Detail != "evict" {
			t.Errorf("%+v, %v", e, err)
		}
	}
	const path = "/v1/hosts/" + id
	for _, want := range []string{
		"GET " + path, "POST " + path + `/drain {"evict":true}`, "POST " + path + "/undrain", "DELETE " + path, "DELETE " + path + "?force=true", "POST /v1/hosts/tokens {}",
		`POST /v1/hosts/tokens {"host_id":"host-00000001","expires_in_seconds":90}`, "GET /v1/hosts?limit=200&state=down&state=draining", "GET /v1/hosts?cursor=n&limit=200&state=down&state=draining",
		"DELETE /v1/hosts/tokens/token-0123456789abcdef", "GET /v1/hosts/tokens?limit=200", "GET /v1/hosts/tokens?cursor=n&limit=200",
		"GET /v1/hosts/audit?target=host-00000001", "GET /v1/hosts/audit?cursor=n&target=host-00000001",
	} {
		if !strings.Contains("\n"+strings.Join(asked, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("%s was not asked, but\n%s", want, strings.Join(asked, "\n"))
		}
	}
	if n != 6 {
		t.Errorf("%d items of lists", n)
	}
	if err := c.RemoveHost(t.Context(), "../x", true); CodeOf(err) != Invalid {
		t.Errorf("what is no id: %v", err)
	}
	if err := c.RevokeHostToken(t.Context(), "wht_0.1"); CodeOf(err) != Invalid || strings.Contains(err.Error(), "wht_") {
		t.Errorf("a token in place of its id: %v", err)
	}
}
