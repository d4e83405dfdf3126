package main

import "net/http"

// usage answers as if one sandbox had run for a while on the day that was asked for; by sandbox, on two pages.
func (f *fake) usage(w http.ResponseWriter, r *http.Request) {
	used := map[string]any{"vcpu_seconds": 3600.25, "memory_gib_seconds": 900, "stored_gib_hours": map[string]any{"paused": 1.5, "hibernated": 0, "snapshot": 0}}
	q := r.URL.Query()
	answer := map[string]any{"from": firstOf(q.Get("from"), "2026-01-01T00:00:00.000Z"), "to": firstOf(q.Get("to"), "2026-01-31T00:00:00.000Z"), "total": used, "items": []any{}, "next_cursor": nil}
	switch {
	case q.Get("by") == "day":
		answer["items"] = []any{map[string]any{"day": "2026-03-01", "sandbox_id": nil, "used": used}}
	case q.Get("cursor") != "":
		answer["items"] = []any{map[string]any{"day": nil, "sandbox_id": "sb-0000000b", "used": used}}
	case q.Get("by") == "sandbox":
		answer["items"] = []any{map[string]any{"day": nil, "sandbox_id": "sb-0000000a", "used": used}}
		answer["next_cursor"] = "sb-0000000a"
	case q.Has("by"):
		refuse(w, 400, "invalid", "by must be day or sandbox", "")
		return
	}
	reply(w, 200, answer)
}
