package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"time"
)

// networkOf is the policy that a request asks for, changed from before.
func networkOf(before map[string]any, asked any) map[string]any {
	now := maps.Clone(before)
	change, given := asked.(map[string]any)
	if !given {
		return now
	}
	for name, value := range change {
		if name == "limits" {
			limits := maps.Clone(now["limits"].(map[string]any))
			maps.Copy(limits, value.(map[string]any))
			value = limits
		}
		now[name] = value
	}
	return now
}

func defaultNetwork() map[string]any {
	return map[string]any{
		"internet": "on", "ipv6": "off", "allow": []any{}, "deny": []any{}, "generation": 1,
		"limits": map[string]any{"upload_mbit": 0, "download_mbit": 0, "packets_per_second": 0, "connections": 0, "connections_per_second": 0},
	}
}

func (f *fake) setNetwork(w http.ResponseWriter, s map[string]any, body []byte) {
	var req struct {
		Network map[string]any `json:"network"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		refuse(w, 400, "invalid", "malformed", "")
		return
	}
	if internet, given := req.Network["internet"]; given && internet != "on" && internet != "off" {
		refuse(w, 400, "invalid", `network.internet must be "on" or "off"`, "")
		return
	}
	old := s["network"].(map[string]any)
	network := networkOf(old, req.Network)
	network["generation"] = old["generation"].(int) + 1
	s["network"] = network
	reply(w, 200, s)
}

func (f *fake) network(w http.ResponseWriter, s map[string]any, below string) {
	if below == "network" {
		network := s["network"].(map[string]any)
		reply(w, 200, map[string]any{"policy": network, "in_force": true, "generation_in_force": network["generation"],
			"ipv6":     map[string]any{"address": nil, "why": map[any]any{"on": "the host has none"}[network["ipv6"]]},
			"counters": map[string]any{"sent_packets": 3, "sent_bytes": 180, "received_packets": 1, "received_bytes": 60, "dropped_packets": map[string]any{"internet": 2}}})
		return
	}
	at := time.Now().Add(-75 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")
	refusal := func(protocol string, address, port, name any, rule, why string, count int) map[string]any {
		return map[string]any{"first_at": at, "last_at": at, "protocol": protocol, "address": address, "port": port, "name": name, "rule": rule, "why": why, "count": count}
	}
	reply(w, 200, map[string]any{"forgotten": 7, "items": []any{
		refusal("tcp", "192.0.2.7", 443, nil, "internet", "internet is off", 2),
		refusal("dns", nil, nil, "evil.example", "name_denied", "denied", 1),
	}})
}
