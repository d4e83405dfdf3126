package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

// apiKey answers as if there were one key.
func (f *fake) apiKey(w http.ResponseWriter, r *http.Request, body []byte) {
	k := map[string]any{
		"id": "key-00000001", "name": "ci", "prefix": "wrn_0123", "scopes": []string{"guest", "keys"}, "created_at": "2026-01-02T03:04:05.000Z",
		"last_used_at": nil, "expires_at": "2027-01-02T03:04:05.000Z", "revoked_at": nil, "old_key_until": nil,
	}
	id := strings.TrimPrefix(r.URL.Path, "/v1/api-keys")
	switch {
	case r.Method == http.MethodGet:
		reply(w, 200, map[string]any{"items": []any{k}, "next_cursor": nil})
	case id == "":
		var asked map[string]any
		if err := json.Unmarshal(body, &asked); err != nil || asked["expires_in_seconds"] == float64(1) {
			refuse(w, 403, "forbidden", "the API key cannot make one that is valid for longer", "")
			return
		}
		k["key"], k["name"], k["scopes"] = fakeKey, asked["name"], asked["scopes"]
		reply(w, 201, k)
	case !strings.HasPrefix(id, "/key-00000001"):
		refuse(w, 404, "not_found", "there is no valid key "+id[1:], "")
	case r.Method == http.MethodDelete:
		w.WriteHeader(204)
	default:
		k["key"] = fakeKey
		reply(w, 200, k)
	}
}
