package main

import (
	"encoding/json"
	"maps"
	"net/http"
)

// lifecycleOf is the lifecycle that a request asks for, changed from before. What is upcoming is at a time that scripts know.
func lifecycleOf(before map[string]any, asked any) map[string]any {
	now := maps.Clone(before)
	change, _ := asked.(map[string]any)
	maps.Copy(now, change)
	const at = "2030-01-02T03:04:05.000Z"
	upcoming := []any{}
	if now["auto_pause_after_seconds"] != 0. {
		upcoming = append(upcoming, map[string]any{"action": "pause", "at": at, "because": "auto_pause"})
	}
	if now["timeout_at"] = nil; now["timeout_seconds"] != 0. {
		now["timeout_at"] = at
		upcoming = append(upcoming, map[string]any{"action": now["on_timeout"], "at": at, "because": "timeout"})
	}
	now["upcoming"] = upcoming
	return now
}

func defaultLifecycle() map[string]any {
	return map[string]any{
		"auto_pause_after_seconds": 0., "auto_hibernate_after_seconds": 0., "auto_destroy_after_seconds": 0., "timeout_seconds": 0., "on_timeout": "destroy",
	}
}

// change makes the changes of a PATCH.
func (f *fake) change(w http.ResponseWriter, s map[string]any, body []byte) {
	var req struct {
		Lifecycle map[string]any `json:"lifecycle"`
	}
	if err := json.Unmarshal(body, &req); err != nil || req.Lifecycle == nil {
		f.setNetwork(w, s, body)
		return
	}
	if after, given := req.Lifecycle["auto_pause_after_seconds"].(float64); given && after == 1 {
		refuse(w, 400, "invalid", "lifecycle.auto_pause_after_seconds must be 0 (never) or between 5 and 31622400, not 1", "")
		return
	}
	s["lifecycle"] = lifecycleOf(s["lifecycle"].(map[string]any), req.Lifecycle)
	reply(w, 200, s)
}
