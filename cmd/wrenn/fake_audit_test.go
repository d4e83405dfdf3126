package main

import "net/http"

// audit answers with one event, of what is asked for.
func (f *fake) audit(w http.ResponseWriter, r *http.Request) {
	target := firstOf(r.URL.Query().Get("target"), "sb-00000001")
	reply(w, 200, map[string]any{"next_cursor": nil, "items": []any{map[string]any{
		"id": 7, "actor": "key-00000001", "action": "sandbox.create", "target": target, "outcome": "ok", "request_id": "req-1", "at": "2026-01-02T03:04:05.000Z",
	}}})
}
