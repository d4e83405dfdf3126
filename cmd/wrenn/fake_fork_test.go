package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// fork answers as if each child were there at once.
func (f *fake) fork(w http.ResponseWriter, parent map[string]any, body []byte) {
	var req struct {
		Count    int               `json:"count"`
		Metadata map[string]string `json:"metadata"`
	}
	if err := json.Unmarshal(body, &req); err != nil || req.Count > 16 {
		refuse(w, 400, "invalid", fmt.Sprintf("count must be between 1 and 16, not %d", req.Count), "")
		return
	}
	var items []any
	for range req.Count {
		child := maps.Clone(parent)
		child["id"], child["parent_id"] = fmt.Sprintf("sb-%08x", len(f.sandboxes)+1), parent["id"]
		if req.Metadata != nil {
			child["metadata"] = req.Metadata
		}
		f.sandboxes = append([]map[string]any{child}, f.sandboxes...)
		items = append(items, child)
	}
	reply(w, 201, map[string]any{"items": items})
}

func (f *fake) keep(w http.ResponseWriter, sb map[string]any, body []byte) {
	var req struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(body, &req); err != nil || req.Name == "" {
		refuse(w, 400, "invalid", "name is required", "")
		return
	}
	s := map[string]any{
		"id": fmt.Sprintf("snap-%08x", len(f.snapshots)+1), "name": req.Name, "state": "ready", "state_reason": nil, "sandbox_id": sb["id"], "parent_id": nil,
		"host_id": sb["host_id"], "bytes": 20 << 20, "created_at": sb["created_at"],
	}
	for _, field := range []string{"template", "vcpus", "memory_mib", "disk_mib", "network"} {
		s[field] = sb[field]
	}
	f.snapshots = append([]map[string]any{s}, f.snapshots...)
	reply(w, 201, s)
}

// kept answers what is asked of snapshots.
func (f *fake) kept(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, "/v1/snapshots")
	if id == "" {
		items := slices.DeleteFunc(slices.Clone(f.snapshots), func(s map[string]any) bool {
			of := r.URL.Query().Get("sandbox")
			return of != "" && s["sandbox_id"] != of
		})
		if items == nil {
			items = []map[string]any{}
		}
		reply(w, 200, map[string]any{"items": items, "next_cursor": nil})
		return
	}
	at := slices.IndexFunc(f.snapshots, func(s map[string]any) bool { return "/"+s["id"].(string) == id })
	switch {
	case at < 0:
		refuse(w, 404, "not_found", "there is no snapshot "+strings.TrimPrefix(id, "/"), "")
	case r.Method == http.MethodDelete:
		f.snapshots = slices.Delete(f.snapshots, at, at+1)
		w.WriteHeader(204)
	default:
		reply(w, 200, f.snapshots[at])
	}
}
