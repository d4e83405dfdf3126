package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

// webhook answers as if there were one webhook with one delivery.
func (f *fake) webhook(w http.ResponseWriter, r *http.Request, body []byte) {
	hook := map[string]any{
		"id": "wh-00000001", "url": "https://example.com/hook", "events": []string{}, "enabled": true, "state": "failing", "failure": "the receiver answered with status 500",
		"failing_since": "2026-01-02T03:04:05.000Z", "next_attempt_at": "2026-01-02T03:04:10.000Z", "old_secret_until": nil, "created_at": "2026-01-02T03:04:05.000Z",
	}
	delivery := map[string]any{
		"id": "msg-0000000000000001", "type": "sandbox.running", "event_id": "7", "sandbox_id": "sb-00000001", "state": "pending", "attempts": 2, "status": 500,
		"error": "the receiver answered with status 500", "last_attempt_at": "2026-01-02T03:04:05.000Z", "next_attempt_at": "2026-01-02T03:04:10.000Z", "created_at": "2026-01-02T03:04:05.000Z",
	}
	var asked map[string]any
	_ = json.Unmarshal(body, &asked) // most have none
	id, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1/webhooks"), "/"), "/")
	switch {
	case id != "" && id != "wh-00000001":
		refuse(w, 404, "not_found", "there is no webhook "+id, "")
	case rest == "ping", rest == "deliveries/msg-0000000000000001/retry":
		reply(w, 202, delivery)
	case rest == "deliveries":
		reply(w, 200, map[string]any{"items": []any{delivery}, "next_cursor": nil})
	case r.Method == http.MethodDelete:
		w.WriteHeader(204)
	case r.Method == http.MethodGet:
		reply(w, 200, map[string]any{"items": []any{hook}, "next_cursor": nil})
	case r.Method == http.MethodPatch:
		hook["enabled"] = asked["enabled"]
		reply(w, 200, hook)
	case asked["url"] == "http://10.0.0.1/":
		refuse(w, 400, "invalid", "url has the address 10.0.0.1, which is not public", "")
	default:
		hook["secret"] = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
		reply(w, map[bool]int{true: 201, false: 200}[rest == "" && id == ""], hook)
	}
}
