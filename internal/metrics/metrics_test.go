package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func told(t *testing.T, s *Set) string {
	t.Helper()
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func want(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("%s is not in\n%s", line, text)
		}
	}
}

func TestCountsAndTimes(t *testing.T) {
	s := New("1.2.3")
	c, d := s.Counter("things_total", "Things.", "kind"), s.Timer("thing_seconds", "How long.", "kind")
	c.Add(1, "a")
	c.Add(2, "a")
	c.Add(1, "b")
	d.Observe(30*time.Millisecond, "a")
	d.Observe(time.Hour, "a")
	Counter{}.Add(1, "whatever", "there is")
	Timer{}.Observe(time.Second)
	text := told(t, s)
	want(t, text, `wrenn_things_total{kind="a"} 3`, `wrenn_things_total{kind="b"} 1`, `# TYPE wrenn_things_total counter`, `# HELP wrenn_things_total Things.`,
		`wrenn_thing_seconds_bucket{kind="a",le="0.025"} 0`, `wrenn_thing_seconds_bucket{kind="a",le="0.05"} 1`, `wrenn_thing_seconds_bucket{kind="a",le="120"} 1`, `wrenn_thing_seconds_count{kind="a"} 2`)
	for _, name := range []string{`wrenn_build_info{go="go1.`, `version="1.2.3"} 1`, "go_goroutines ", "process_open_fds "} {
		if !strings.Contains(text, name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestLook: what is looked up is told again for a while, however many ask, and is missing while it cannot be.
func TestLook(t *testing.T) {
	s := New("")
	var mu sync.Mutex // guards what follows
	looks, keep := 0, errors.New("it is away")
	families := []Family{{Name: "seen", Help: "Seen.", Labels: []string{"kind"}}, {Name: "looks_total", Help: "Looks.", Total: true}}
	read := func(ctx context.Context, put Put) error {
		mu.Lock()
		defer mu.Unlock()
		if _, limited := ctx.Deadline(); !limited {
			t.Error("a look has no limit")
		}
		looks++
		put("looks_total", float64(looks))
		put("seen", 7, "a")
		return keep
	}
	s.Look(Look{Part: "kept", Keep: time.Hour, Families: families, Read: read}, slog.New(slog.DiscardHandler))
	if text := told(t, s); strings.Contains(text, "wrenn_seen") {
		t.Errorf("what failed is told: %s", text)
	}
	want(t, told(t, s), `wrenn_metrics_failures_total{part="kept"} 1`)

	s, keep, looks = New(""), nil, 0
	s.Look(Look{Part: "kept", Keep: time.Hour, Families: families, Read: read}, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			want(t, told(t, s), `wrenn_seen{kind="a"} 7`, "# TYPE wrenn_seen gauge", "wrenn_looks_total 1", "# TYPE wrenn_looks_total counter")
		})
	}
	wg.Wait()

	s, looks = New(""), 0
	s.Look(Look{Part: "fresh", Families: families, Read: read}, slog.New(slog.DiscardHandler))
	want(t, told(t, s), "wrenn_looks_total 1")
	want(t, told(t, s), "wrenn_looks_total 2")
}

// TestServe: there is GET /metrics, nothing else, until the end.
func TestServe(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), l.Addr().String()); models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a port that is taken: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		New("").Serve(ctx, l, slog.New(slog.DiscardHandler))
	}()
	for what, status := range map[string]int{"GET /metrics": 200, "POST /metrics": 405, "GET /": 404, "GET /debug/pprof/": 404} {
		method, path, _ := strings.Cut(what, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status || (status == 200) != strings.Contains(string(text), "wrenn_build_info") {
			t.Errorf("%s: %d %s", what, resp.StatusCode, text)
		}
	}
	cancel()
	<-done
	var dialer net.Dialer
	if conn, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}
