package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/wrenn-sandbox/wrenn/envd/internal/boot"
	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
)

func token(t string) http.Header { return http.Header{"X-Access-Token": {t}} }

// Every route but /health needs the token, and before there is one only /init is answered.
func TestToken(t *testing.T) {
	e := start(t, server.Options{Shutdown: func(string) { t.Error("the guest was shut down") }})
	routes := []string{
		"GET /metrics", "GET /envs", "GET /files?path=/etc/passwd&username=tester", "POST /files?path=x&username=tester", "POST /shutdown",
		"POST /process.Process/Start", "POST /process.Process/List", "POST /authorize", "GET /ports/80", "GET /nothing", "GET /init/", "GET //health", "GET /healthz",
	}
	refused := func(when string, header http.Header) {
		t.Helper()
		for _, route := range routes {
			method, path, _ := strings.Cut(route, " ")
			status, text := e.request(method, path, "", header)
			if status != http.StatusUnauthorized || !strings.Contains(text, `"code":401`) {
				t.Errorf("%s, %s: %d %s", when, route, status, text)
			}
		}
		if status, _ := e.request("GET", "/health", "", nil); status != http.StatusNoContent {
			t.Errorf("%s: health %d", when, status)
		}
	}
	refused("before init", nil)
	refused("before init, with a token", token("secret"))
	if status, text := e.request("POST", "/init", `{}`, nil); status != 400 || !strings.Contains(text, "accessToken") {
		t.Errorf("init without a token: %d %s", status, text)
	}
	e.init(`{"accessToken":"secret"}`)
	refused("without a token", nil)
	for _, wrong := range []string{"", "secre", "secret2", "Secret", "secret secret"} {
		refused("with a wrong token", token(wrong))
	}
	if status, _ := e.request("POST", "/init", `{"accessToken":"stolen"}`, nil); status != 401 {
		t.Errorf("second init without the token: %d", status)
	}
	if status, text := e.request("GET", "/envs", "", token("secret")); status != 200 || text != "{}\n" {
		t.Errorf("with the token: %d %s", status, text)
	}
	if status, _ := e.request("POST", "/init", `{"accessToken":"second"}`, token("secret")); status != 204 {
		t.Errorf("rotation: %d", status)
	}
	refused("with the old token", token("secret"))
	if status, _ := e.request("GET", "/envs", "", token("second")); status != 200 {
		t.Errorf("with the new token: %d", status)
	}
}

// Of many callers that try to be the first, one wins.
func TestFirstInitWins(t *testing.T) {
	e := start(t, server.Options{Reconfigure: func(context.Context, boot.Settings) error {
		time.Sleep(20 * time.Millisecond) // lets others come in the meantime
		return nil
	}})
	var group sync.WaitGroup
	statuses := make([]int, 20)
	for i := range statuses {
		group.Go(func() { statuses[i], _ = e.request("POST", "/init", fmt.Sprintf(`{"accessToken":"t%d"}`, i), nil) })
	}
	group.Wait()
	winner := -1
	for i, status := range statuses {
		if status == 204 && winner < 0 {
			winner = i
		} else if status != 401 {
			t.Errorf("init %d: %d, after %d had won", i, status, winner)
		}
	}
	if status, _ := e.request("GET", "/envs", "", token(fmt.Sprintf("t%d", winner))); status != 200 {
		t.Errorf("the winner's token: %d", status)
	}
}

func TestInitSettings(t *testing.T) {
	var got []boot.Settings
	e := start(t, server.Options{Reconfigure: func(_ context.Context, s boot.Settings) error {
		got = append(got, s)
		return nil
	}})
	e.init(`{"accessToken":"x","hostname":"sb-01234567","timestamp":"2026-11-23T10:20:30.5Z","hyperloopIP":"1.2.3.4","lifecycleID":"y",
		"network":{"address":"10.0.0.2/30","gateway":"10.0.0.1","dns":["1.1.1.1","8.8.8.8"]}}`)
	if status, text := e.request("POST", "/init", `{}`, token("x")); status != 204 {
		t.Errorf("empty init: %d %s", status, text)
	}
	want := []boot.Settings{{
		Hostname: "sb-01234567", Address: netip.MustParsePrefix("10.0.0.2/30"), Gateway: netip.MustParseAddr("10.0.0.1"),
		DNS:  []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("8.8.8.8")},
		Time: time.Date(2026, 11, 23, 10, 20, 30, 5e8, time.UTC),
	}, {}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// A failed init changes nothing, and can be repeated.
func TestInitFails(t *testing.T) {
	fail := errors.New("no such device")
	e := start(t, server.Options{Reconfigure: func(context.Context, boot.Settings) error { return fail }})
	for body, want := range map[string]int{
		`{"accessToken":"x"}`: 500,
		`{"accessToken":`:     400,
		`{"accessToken":"x","network":{"address":"10.0.0.2"}}`:                     400,
		`{"accessToken":"x","timestamp":"yesterday"}`:                              400,
		`{"accessToken":"x","hostname":"a/b"}`:                                     400,
		`{"accessToken":"x","hostname":"` + strings.Repeat("a", 300) + `"}`:        400,
		`{"accessToken":"x","envVars":{"A=B":"c"}}`:                                400,
		`{"accessToken":"x","envVars":{"":"c"}}`:                                   400,
		`{"accessToken":"x","envVars":{"A":"\u0000"}}`:                             400,
		`{"accessToken":"x","envVars":{"A":"` + strings.Repeat("x", 1<<20) + `"}}`: 400,
	} {
		if status, text := e.request("POST", "/init", body, nil); status != want {
			t.Errorf("%.80s: %d %s, want %d", body, status, text, want)
		}
	}
	fail = nil
	e.init(`{"accessToken":"x"}`)
}

func TestHealthNamesTheVersion(t *testing.T) {
	e := start(t, server.Options{})
	resp, err := e.http.Get(e.url + "/health")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 204 || resp.Header.Get("X-Envd-Version") != "1.2.3-test" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

func TestShutdown(t *testing.T) {
	asked := make(chan string, 1)
	e := start(t, server.Options{Shutdown: func(reason string) { asked <- reason }})
	e.init(`{"accessToken":"x"}`)
	if status, text := e.request("POST", "/shutdown", "", token("x")); status != 204 {
		t.Errorf("%d %s", status, text)
	}
	if reason := <-asked; reason == "" {
		t.Error("no reason was given")
	}
	debug := startDebug(t)
	if status, _ := debug.request("POST", "/shutdown", "", nil); status != 501 {
		t.Errorf("without a way to shut down: %d", status)
	}
}

func TestMetrics(t *testing.T) {
	e := startDebug(t)
	for range 2 {
		status, text := e.request("GET", "/metrics", "", nil)
		var m map[string]float64
		if err := json.Unmarshal([]byte(text), &m); err != nil || status != 200 {
			t.Fatalf("%d %s: %v", status, text, err)
		}
		if m["cpu_count"] < 1 || m["cpu_used_pct"] < 0 || m["cpu_used_pct"] > 100 || m["ts"] < 1.7e9 {
			t.Errorf("metrics %s", text)
		}
		if m["mem_used"] <= 0 || m["mem_used"] > m["mem_total"] || m["mem_cache"] <= 0 || m["disk_used"] <= 0 || m["disk_used"] > m["disk_total"] {
			t.Errorf("metrics %s", text)
		}
		if m["mem_total_mib"] < 64 || len(m) != 10 {
			t.Errorf("metrics %s", text)
		}
	}
}

func TestUnknownRoute(t *testing.T) {
	e := startDebug(t)
	for route, want := range map[string]int{"GET /nothing": 404, "DELETE /files": 405, "GET /process.Process/Nothing": 404} {
		method, path, _ := strings.Cut(route, " ")
		if status, _ := e.request(method, path, "", nil); status != want {
			t.Errorf("%s: %d, want %d", route, status, want)
		}
	}
}

// Headers without end are cut off.
func TestHugeHeader(t *testing.T) {
	e := startDebug(t)
	header := http.Header{}
	for i := range 100 {
		header.Set(fmt.Sprintf("X-Filler-%d", i), strings.Repeat("x", 2000))
	}
	if status, _ := e.request("GET", "/health", "", header); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", status)
	}
}
