package api

import (
	"log/slog"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
)

// durable returns databases that sync every commit to the disk, as in production; those of
// stacktest do not.
func durable(b *testing.B) stacktest.Databases {
	b.Helper()
	dir, err := os.MkdirTemp("", "wrenn-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		b.Fatal(err)
	}
	stack, err := devstack.Start(b.Context(), devstack.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := stack.Stop(b.Context()); err != nil {
			b.Error(err)
		}
	})
	return stacktest.Databases{PostgresURL: stack.PostgresURL, RedisURL: stack.RedisURL}
}

// report adds percentiles in milliseconds.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []struct {
		name string
		at   int
	}{{"p50-ms", 50}, {"p95-ms", 95}, {"p99-ms", 99}} {
		b.ReportMetric(float64(took[min(len(took)-1, len(took)*p.at/100)].Microseconds())/1000, p.name)
	}
}

// BenchmarkCreate is the control plane's share of a create: REST, key, two commits and the
// call to a host that takes no time.
func BenchmarkCreate(b *testing.B) {
	r := newRigOn(b, durable(b), Limits{})
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		a := r.plain("POST", "/v1/sandboxes", `{"template":"minimal"}`)
		took = append(took, time.Since(began))
		sb := decoded[sandboxAnswer](b, a, http.StatusCreated)
		b.StopTimer()
		decoded[sandboxAnswer](b, r.plain("DELETE", "/v1/sandboxes/"+sb.ID, ""), http.StatusOK)
		b.StartTimer()
	}
	report(b, took)
}

// BenchmarkExec is the control plane's share of an exec.
func BenchmarkExec(b *testing.B) {
	r := newRigOn(b, durable(b), Limits{})
	sb := r.create().ID
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		a := r.plain("POST", "/v1/sandboxes/"+sb+"/exec", `{"cmd":"true"}`)
		took = append(took, time.Since(began))
		decoded[execResult](b, a, http.StatusOK)
	}
	report(b, took)
}
