package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// TestJoinOverREST: a token lets one host in, once, and certifies it; nothing else does.
func TestJoinOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	authority, err := r.ctl.Fleet.Authority(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const host = id.Host("host-00000007")
	identity, err := mtls.NewIdentity(filepath.Join(t.TempDir(), "identity.pem"), host)
	if err != nil {
		t.Fatal(err)
	}
	request, err := identity.Request()
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := r.ctl.Fleet.NewToken(t.Context(), r.store, "", db.By{Actor: "operator", Operation: "req-0"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	body := func(change func(map[string]any)) string {
		in := map[string]any{"token": token.Secret(), "host_id": host, "name": "seven", "address": "127.0.0.1:1", "certificate_request": base64.StdEncoding.EncodeToString(request)}
		if change != nil {
			change(in)
		}
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	set := func(key string, value any) string { return body(func(in map[string]any) { in[key] = value }) }
	for name, c := range map[string]struct {
		body   string
		status int
		code   models.Code
	}{
		"no token":           {set("token", ""), 401, models.Unauthenticated},
		"another token":      {set("token", mtls.NewToken(authority).Secret()), 401, models.Unauthenticated},
		"a whole token":      {set("token", string(token)), 401, models.Unauthenticated},
		"no host":            {set("host_id", "sb-00000001"), 400, models.Invalid},
		"no name":            {set("name", ""), 400, models.Invalid},
		"a long name":        {set("name", strings.Repeat("x", 65)), 400, models.Invalid},
		"a control in it":    {set("name", "a\nb"), 400, models.Invalid},
		"no port":            {set("address", "10.0.0.7"), 400, models.Invalid},
		"no address":         {set("address", ":9000"), 400, models.Invalid},
		"port 0":             {set("address", "10.0.0.7:0"), 400, models.Invalid},
		"no request":         {set("certificate_request", "eA=="), 400, models.Invalid},
		"no base64":          {set("certificate_request", "?"), 400, models.Invalid},
		"an unknown member":  {set("more", 1), 400, models.Invalid},
		"nothing":            {"", 415, models.Invalid},
		"another type of it": {set("token", 7), 400, models.Invalid},
	} {
		got := decoded[errorAnswer](t, r.call("POST", "/v1/hosts/join", c.body, "X-API-Key", ""), c.status)
		if got.Error.Code != c.code {
			t.Errorf("%s: %+v", name, got)
		}
	}
	joined := decoded[joinedView](t, r.call("POST", "/v1/hosts/join", body(nil), "X-API-Key", ""), http.StatusCreated)
	if err := identity.Join(token, joined.Certificate, joined.Authority); err != nil {
		t.Error(err)
	}
	if again := decoded[errorAnswer](t, r.call("POST", "/v1/hosts/join", body(nil), "X-API-Key", ""), 401); !strings.Contains(again.Error.Message, "used") {
		t.Errorf("a second time: %+v", again)
	}
	if members, err := r.store.JoinedHosts(t.Context()); err != nil || len(members) != 1 || members[0].ID != host {
		t.Errorf("who has joined: %+v, %v", members, err)
	}
}
