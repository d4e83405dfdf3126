package api

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestClassOf(t *testing.T) {
	for what, want := range map[string]string{
		"GET /v1/sandboxes": ClassRead, "GET /v1/sandboxes/sb-1": ClassRead, "GET /v1/sandboxes/sb-1/events": ClassRead, "GET /v1/sandboxes/sb-1/network": ClassRead,
		"POST /v1/sandboxes": ClassCreate, "POST /v1/sandboxes/sb-1/fork": ClassCreate, "POST /v1/sandboxes/sb-1/resume": ClassCreate, "POST /v1/sandboxes/sb-1/snapshots": ClassCreate,
		"POST /v1/sandboxes/sb-1/pause": ClassWrite, "DELETE /v1/sandboxes/sb-1": ClassWrite, "PATCH /v1/sandboxes/sb-1": ClassWrite, "DELETE /v1/snapshots/snap-1": ClassWrite,
		"POST /v1/sandboxes/sb-1/exec": ClassGuest, "GET /v1/sandboxes/sb-1/files/a/b": ClassGuest, "GET /v1/sandboxes/sb-1/processes/7": ClassGuest, "POST /v1/sandboxes/sb-1/port-tokens": ClassGuest,
		"GET /v1/exec": ClassRead, "POST /v1/sandboxes/": ClassWrite,
	} {
		method, path, _ := strings.Cut(what, " ")
		if got := classOf(method, path); got != want {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
}

// TestRateLimits: each key has a limit for each class; the headers tell how much is left, and a refusal when to come again.
func TestRateLimits(t *testing.T) {
	r := newLimitedRig(t, stacktest.ForTest(t), Limits{}, map[string]auth.Rate{ClassRead: {PerSecond: 0.02, Burst: 3}})
	for left := 2; left >= 0; left-- {
		a := r.call("GET", "/v1/templates", "")
		if want := `"read";r=` + strconv.Itoa(left) + ";t=" + strconv.Itoa(50*(3-left)); a.status != http.StatusOK || a.header.Get("RateLimit") != want || a.header.Get("RateLimit-Policy") != `"read";q=3;w=150` {
			t.Errorf("%d %v, want %s", a.status, a.header, want)
		}
	}
	a := r.call("GET", "/v1/sandboxes", "")
	r.refused(a, http.StatusTooManyRequests, models.Exhausted, `class "read"`)
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 40 || after > 50 || a.header.Get("RateLimit") == "" {
		t.Errorf("refused with %v", a.header)
	}
	r.create() // of another class, which has no limit here
	if a := r.call("GET", "/v1/templates", "", auth.Header, string(r.newKey("acme"))); a.status != http.StatusOK {
		t.Errorf("another key of the account: %d", a.status)
	}
	if a := r.call("GET", "/healthz", ""); a.status != http.StatusOK || a.header.Get("RateLimit") != "" {
		t.Errorf("health: %d %v", a.status, a.header)
	}
}
