package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

// setUp points the environment at databases of t's own.
func setUp(t *testing.T) stacktest.Databases {
	t.Helper()
	dbs := stacktest.ForTest(t)
	t.Setenv(config.FileVariable, "")
	t.Setenv("WRENN_DATABASE_URL", dbs.PostgresURL)
	t.Setenv("WRENN_REDIS_URL", dbs.RedisURL)
	t.Setenv("WRENN_API_KEY", "")
	return dbs
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := try(t, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

func try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, &out)
	return out.String(), err
}

var key = regexp.MustCompile(`^wrn_[0-9a-f]{32}\n$`)

func TestMigrateCommands(t *testing.T) {
	setUp(t)
	if out := command(t, "migrate", "status"); !strings.Contains(out, "00001_initial.sql  not applied") {
		t.Errorf("status before: %s", out)
	}
	command(t, "migrate", "up")
	if out := command(t, "migrate", "status"); strings.Contains(out, "not applied") {
		t.Errorf("status after up: %s", out)
	}
	command(t, "migrate", "down")
	if out := command(t, "migrate", "status"); !strings.Contains(out, "not applied") {
		t.Errorf("status after down: %s", out)
	}
	command(t, "migrate", "reset")
	if out := command(t, "migrate", "status"); strings.Contains(out, "not applied") {
		t.Errorf("status after reset: %s", out)
	}
}

func TestKeyCommands(t *testing.T) {
	setUp(t)
	command(t, "migrate", "up")
	secret := command(t, "key", "create", "--name", "ci", "--account", "acme")
	if !key.MatchString(secret) {
		t.Fatalf("key create printed %q", secret)
	}
	list := command(t, "key", "list")
	if strings.Contains(list, strings.TrimSpace(secret)) || !strings.Contains(list, secret[:8]+"…") || !strings.Contains(list, "acme") {
		t.Errorf("key list printed %s", list)
	}
	id := regexp.MustCompile(`key-[0-9a-f]{8}`).FindString(list)
	command(t, "key", "revoke", id)
	if _, err := try(t, "key", "revoke", id); models.CodeOf(err) != models.NotFound {
		t.Errorf("a second revoke: %v", err)
	}
	if _, err := try(t, "key", "revoke", "nonsense"); models.CodeOf(err) != models.Invalid {
		t.Errorf("revoke of nonsense: %v", err)
	}
	if _, err := try(t, "key", "create"); err == nil {
		t.Error("a key without a name was made")
	}
}

func TestSeedIsIdempotent(t *testing.T) {
	setUp(t)
	file := filepath.Join(t.TempDir(), "made", "dev-key")
	first := command(t, "seed", "--key-file", file)
	if second := command(t, "seed", "--key-file", file); !key.MatchString(first) || second != first {
		t.Errorf("seed printed %q, then %q", first, second)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file %v, %v", info, err)
	}
	if list := command(t, "key", "list"); strings.Count(list, "key-") != 1 {
		t.Errorf("after two seeds: %s", list)
	}
	command(t, "migrate", "reset") // the file outlives the database
	if third := command(t, "seed", "--key-file", file); third != first {
		t.Errorf("after a reset seed printed %q", third)
	}
	t.Setenv("WRENN_API_KEY", "wrn_0123456789abcdef0123456789abcdef")
	if out := command(t, "seed", "--key-file", file); out != "wrn_0123456789abcdef0123456789abcdef\n" {
		t.Errorf("with WRENN_API_KEY seed printed %q", out)
	}
	t.Setenv("WRENN_API_KEY", "nonsense")
	if _, err := try(t, "seed", "--key-file", file); models.CodeOf(err) != models.Invalid {
		t.Errorf("with a WRENN_API_KEY that is none: %v", err)
	}
}

// lines is a log that tells the URL that is served.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

var (
	serves        = regexp.MustCompile(`msg=serving url=(\S+)`)
	servesMetrics = regexp.MustCompile(`msg="serving metrics" url=(\S+)`)
)

func (l *lines) url() string { return l.find(serves) }

// find returns what the group of a line is, empty where there is none yet.
func (l *lines) find(line *regexp.Regexp) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := line.FindStringSubmatch(l.text.String()); m != nil {
		return m[1]
	}
	return ""
}

// TestServe starts before its host, becomes ready once the host is there, serves, and ends
// in order.
func TestServe(t *testing.T) {
	setUp(t)
	secret := strings.TrimSpace(command(t, "seed", "--key-file", filepath.Join(t.TempDir(), "k")))
	sim := hostsim.Start(t)
	sim.Kill()
	cfg, err := config.LoadControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Agent, cfg.MetricsListen = "127.0.0.1:0", sim.Address(), "127.0.0.1:0"
	log := &lines{}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, cfg, slog.New(slog.NewTextHandler(log, nil))) }()
	eventually(t, "it serves", func() bool { return log.url() != "" })
	ask := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, log.url()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", secret)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, body := ask("GET", "/readyz", ""); code != http.StatusServiceUnavailable {
		t.Errorf("without a host readyz is %d %s", code, body)
	}
	if code, body := ask("POST", "/v1/sandboxes", `{"template":"minimal"}`); code != http.StatusServiceUnavailable {
		t.Errorf("without a host create is %d %s", code, body)
	}
	sim.Restart()
	eventually(t, "it is ready", func() bool { code, _ := ask("GET", "/readyz", ""); return code == http.StatusOK })
	code, body := ask("POST", "/v1/sandboxes", `{"template":"minimal"}`)
	var sb struct{ ID, State string }
	if err := json.Unmarshal([]byte(body), &sb); err != nil || code != http.StatusCreated || sb.State != "running" {
		t.Errorf("create: %d %s", code, body)
	}
	checkMetrics(t, log)
	if code, body := ask("DELETE", "/v1/sandboxes/"+sb.ID, ""); code != http.StatusOK {
		t.Errorf("destroy: %d %s", code, body)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// checkMetrics looks at what a control plane tells that has one sandbox, on one host.
func checkMetrics(t *testing.T, log *lines) {
	t.Helper()
	eventually(t, "it serves metrics", func() bool { return log.find(servesMetrics) != "" })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, log.find(servesMetrics), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for _, line := range []string{
		`wrenn_sandboxes{state="running"} 1`, `wrenn_hosts{state="ready"} 1`, `wrenn_hosts{state="down"} 0`, `wrenn_hosts_promised{resource="vcpus"} 1`, "wrenn_hosts_known 1", "wrenn_hosts_reachable 1",
		"wrenn_redis_up 1", "wrenn_webhook_deliveries_pending 0", "wrenn_usage_events_pending 0", `wrenn_operations_total{kind="create",outcome="ok"} 1`,
		`wrenn_operations_total{kind="create",outcome="unavailable"} 1`, `wrenn_http_requests_total{class="create",status="201"} 1`, `wrenn_http_requests_total{class="create",status="503"} 1`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("%s is not told", line)
		}
	}
	for _, name := range []string{`wrenn_hosts_room{resource="memory"} `, `wrenn_database_connections{state="used"} `, "wrenn_database_connections_max ", `wrenn_build_info{`} {
		if !strings.Contains(string(text), "\n"+name) {
			t.Errorf("%s is not told", name)
		}
	}
	if strings.Contains(string(text), "wrenn_metrics_failures_total{") {
		t.Error("a part could not be read")
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

func TestServeRefuses(t *testing.T) {
	setUp(t)
	for name, args := range map[string][]string{
		"listen": {"serve", "--listen", "8000"}, "metrics_listen": {"--metrics-listen", "9464"}, "a port that is no port": {"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:99999"},
		"log_format": {"--log-format", "xml"}, "unknown command": {"sevre"},
		"unknown flag": {"serve", "--lisen", "x"}, "database": {"serve", "--database-url", "postgres:///x?host=/nonexistent"},
		"Redis": {"serve", "--redis-url", "http://x", "--listen", "127.0.0.1:0"},
	} {
		if _, err := try(t, args...); err == nil {
			t.Errorf("%s: it serves", name)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came true that %s", what)
		}
	}
}
