package wrenn

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAPIKeys(t *testing.T) {
	const key = `{"id":"key-00000001","name":"ci","prefix":"wrn_0000","scopes":["guest"],"created_at":"2026-01-02T03:04:05.678Z","last_used_at":null,"expires_at":null,"revoked_at":null,"old_key_until":null`
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.String()+" "+string(b))
		switch r.Method {
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case http.MethodGet:
			next := map[bool]string{true: "null", false: `"n"`}[r.URL.Query().Has("cursor")]
			answer(w, http.StatusOK, `{"items":[`+key+`}],"next_cursor":`+next+`}`)
		default:
			answer(w, http.StatusCreated, key+`,"key":"wrn_0"}`)
		}
	})
	for _, life := range []time.Duration{0, 1500 * time.Millisecond} {
		if k, err := c.CreateAPIKey(t.Context(), "ci", []Scope{UseGuest, WriteSandboxes}, life); err != nil || k.Key != "wrn_0" || k.Scopes[0] != UseGuest || !k.ExpiresAt.IsZero() {
			t.Errorf("%+v, %v", k, err)
		}
	}
	if k, err := c.RotateAPIKey(t.Context(), "key-00000001", time.Minute); err != nil || k.Key != "wrn_0" {
		t.Errorf("%+v, %v", k, err)
	}
	if err := c.RevokeAPIKey(t.Context(), "key-00000001"); err != nil {
		t.Error(err)
	}
	n := 0
	for k, err := range c.APIKeys(t.Context()) {
		if n++; err != nil || k.ID != "key-00000001" {
			t.Errorf("%+v, %v", k, err)
		}
	}
	want := []string{
		`POST /v1/api-keys {"name":"ci","scopes":["guest","sandboxes:write"]}`, `POST /v1/api-keys {"name":"ci","scopes":["guest","sandboxes:write"],"expires_in_seconds":2}`,
		`POST /v1/api-keys/key-00000001/rotate {"grace_seconds":60}`, "DELETE /v1/api-keys/key-00000001 ", "GET /v1/api-keys?limit=200 ", "GET /v1/api-keys?cursor=n&limit=200 ",
	}
	if got := strings.Join(asked, "\n"); n != 2 || got != strings.Join(want, "\n") {
		t.Errorf("%d keys; asked\n%s", n, got)
	}
	if err := c.RevokeAPIKey(t.Context(), "../x"); CodeOf(err) != Invalid {
		t.Errorf("what is no id: %v", err)
	}
}
