package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// host answers as if there were one host, which is drained.
func (f *fake) host(w http.ResponseWriter, r *http.Request, body []byte) {
	const at = "2026-01-02T03:04:05.000Z"
	room := func(capacity, overcommit, promised int) map[string]any {
		return map[string]any{"capacity": capacity, "overcommit": overcommit, "promised": promised}
	}
	drain := map[string]any{"evict": false, "leaving": 2, "staying": 1, "done": false}
	host := map[string]any{
		"id": "host-00000001", "name": "rack\x1b[31m-1", "address": "10.0.0.7:9000", "state": "draining", "state_reason": nil, "state_since": at, "drain": drain,
		"vcpus": room(4, 16, 3), "memory_mib": room(4096, 1, 1024), "disk_mib": room(8192, 4, 2048), "sandboxes": map[string]any{"running": 1, "sleeping": 2}, "snapshots": 1,
		"templates":     []any{map[string]any{"name": "python311", "digest": "sha256:1", "warm": true}, map[string]any{"name": "node20", "digest": "sha256:2", "warm": false}},
		"agent_version": "1.2.0", "driver": "qemu", "driver_version": "7.2", "accelerator": "kvm", "object_store": true, "last_seen_at": at, "created_at": at, "joined_at": at, "certificate_until": nil,
	}
	var asked map[string]any
	_ = json.Unmarshal(body, &asked) // most have none
	id, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1/hosts"), "/"), "/")
	switch {
	case id == "audit":
		reply(w, 200, map[string]any{"next_cursor": nil, "items": []any{map[string]any{
			"id": 7, "actor": "key-00000001", "action": "host.drain", "target": "host-00000001", "outcome": "ok", "detail": "evict", "request_id": "req-1", "at": at,
		}}})
	case id == "tokens":
		f.hostToken(w, r, rest, asked["host_id"])
	case id == "":
		items := []any{}
		if states := r.URL.Query()["state"]; len(states) == 0 || slices.Contains(states, "draining") {
			items = append(items, host)
		}
		reply(w, 200, map[string]any{"items": items, "next_cursor": nil})
	case id != "host-00000001":
		refuse(w, 404, "not_found", "there is no host "+id, "")
	case r.Method == http.MethodDelete && r.URL.Query().Get("force") != "true":
		refuse(w, 409, "precondition", "the host host-00000001 holds 1 sandboxes that run, 2 that sleep and 1 snapshots", "drain it first; force gives up what it holds")
	case r.Method == http.MethodDelete:
		w.WriteHeader(204)
	case rest == "undrain":
		host["state"], host["drain"] = "ready", nil
		reply(w, 200, host)
	default:
		if asked["evict"] == true {
			drain["evict"], drain["leaving"], drain["staying"] = true, 3, 0
		}
		reply(w, 200, host)
	}
}

// hostToken answers as if there were one token, which is for host-00000001, and one that was used.
func (f *fake) hostToken(w http.ResponseWriter, r *http.Request, id string, bound any) {
	token := map[string]any{"id": "token-0123456789abcdef", "host_id": "host-00000001", "created_at": "2026-01-02T03:04:05.000Z", "expires_at": "2026-01-02T04:04:05.000Z"}
	switch {
	case r.Method == http.MethodGet:
		reply(w, 200, map[string]any{"items": []any{token}, "next_cursor": nil})
	case r.Method == http.MethodPost:
		token["host_id"], token["token"] = bound, "wht_"+strings.Repeat("0", 32)+"."+strings.Repeat("1", 64)
		reply(w, 201, token)
	case id == "token-0123456789abcdef":
		w.WriteHeader(204)
	default:
		refuse(w, 409, "precondition", "the token "+id+" was used already, by the host host-00000001", "remove the host, if it should not have joined")
	}
}
