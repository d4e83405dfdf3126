package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/eventfeed"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/webhook"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

// loopback is where the receivers of webhooks are in tests; the rest of 127.0.0.0/8 is as it is elsewhere.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

// rig is a whole control plane on a real database and Redis, before a simulated host.
type rig struct {
	t       testing.TB
	dbs     stacktest.Databases
	store   *db.Store
	cache   *auth.Cache
	ctl     *controller.Controller
	sim     *hostsim.Host
	auth    *auth.Authenticator
	logger  *slog.Logger
	limiter *auth.Limiter
	feed    *eventfeed.Feed
	sender  *webhook.Sender
	api     *Server
	handler http.Handler
	server  *httptest.Server
	key     auth.Secret
	log     *logBuffer
	metrics *metrics.Set
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newRig(t testing.TB, limits Limits) *rig {
	t.Helper()
	return newRigOn(t, stacktest.ForTest(t), limits)
}

func newRigOn(t testing.TB, dbs stacktest.Databases, limits Limits) *rig {
	t.Helper()
	return newLimitedRig(t, dbs, limits, nil)
}

// newLimitedRig is newRigOn with rates of requests; nil for no limits.
func newLimitedRig(t testing.TB, dbs stacktest.Databases, limits Limits, rates map[string]auth.Rate) *rig {
	t.Helper()
	r := &rig{t: t, dbs: dbs, sim: hostsim.Start(t), log: &logBuffer{}, metrics: metrics.New("")}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	if _, err := db.MigrateUp(t.Context(), r.dbs.PostgresURL); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.store, err = db.Open(t.Context(), r.dbs.PostgresURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.store.Close)
	if r.cache, err = auth.OpenCache(r.dbs.RedisURL, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cache.Close() })
	r.feed = eventfeed.New(r.store, r.cache, log)
	r.store.WhenEvents(r.feed.Notify)
	r.limiter = auth.NewLimiter(r.cache, rates)
	keys := auth.New(r.store, r.cache, log)
	t.Cleanup(keys.Close)
	fleet, err := controller.NewFleet([]string{r.sim.Address()}, r.store, log)
	if err != nil {
		t.Fatal(err)
	}
	r.ctl = controller.New(controller.Options{Store: r.store, Fleet: fleet, Log: log, Limits: controller.Limits{Use: 40 * time.Millisecond}, Meter: controller.NewMeter(r.metrics)})
	r.sender = webhook.NewSender(webhook.Options{Store: r.store, View: EncodeEvent, Allowed: loopback, Log: log, Pace: webhook.Pace{Tick: 20 * time.Millisecond, First: 20 * time.Millisecond}})
	r.inBackground(fleet)
	r.auth, r.logger = keys, log
	r.key = r.newKey("acme")
	r.api = New(Options{
		Store: r.store, Auth: keys, Controller: r.ctl, Redis: r.cache, Feed: r.feed, Limiter: r.limiter, Log: log, Limits: limits, WebhookNetworks: loopback,
		Meter: NewMeter(r.metrics),
	})
	r.handler = r.api.Handler()
	r.server = httptest.NewServer(r.handler)
	t.Cleanup(r.server.Close)
	return r
}

func (r *rig) inBackground(fleet *controller.Fleet) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { fleet.Run(ctx) })
	wg.Go(func() { r.feed.Run(ctx) })
	wg.Go(func() { r.sender.Run(ctx) })
	wg.Go(func() {
		controller.NewReconciler(r.ctl, r.store, controller.Pace{Tick: 20 * time.Millisecond}).Run(ctx)
	})
	wg.Go(func() { controller.NewKeeper(r.ctl, r.store, 10*time.Millisecond).Run(ctx) })
	r.t.Cleanup(func() {
		r.ctl.Close(ctx)
		cancel()
		wg.Wait()
	})
	r.eventually("the host is reachable", func() bool { return fleet.Status()[0].Up })
}

func (r *rig) newKey(account string) auth.Secret {
	r.t.Helper()
	secret := auth.NewSecret()
	if _, err := auth.Keep(r.t.Context(), r.store, account, "test", secret, []auth.Scope{auth.Admin}, time.Time{}, db.By{Actor: "operator", Operation: "req-0"}); err != nil {
		r.t.Fatal(err)
	}
	return secret
}

func (r *rig) eventually(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("it never came true that %s", what)
		}
	}
}

// answer is a response that was held against openapi.yaml.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call sends a request with the rig's key, unless headers has another.
func (r *rig) call(method, path, body string, headers ...string) answer {
	r.t.Helper()
	return r.send(r.request(method, path, body, headers...))
}

// plain is call without the check of the answer, which takes longer than the answer.
func (r *rig) plain(method, path, body string) answer {
	r.t.Helper()
	_, a := r.do(r.request(method, path, body))
	return a
}

func (r *rig) request(method, path, body string, headers ...string) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.server.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(auth.Header, string(r.key))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Del(headers[i]); headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return req
}

func (r *rig) send(req *http.Request) answer {
	r.t.Helper()
	resp, a := r.do(req)
	conform(r.t, req, resp, a.body)
	return a
}

func (r *rig) do(req *http.Request) (*http.Response, answer) {
	r.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return resp, answer{resp.StatusCode, resp.Header, b}
}

// decoded decodes the answer, which must have a status.
func decoded[T any](t testing.TB, a answer, status int) T {
	t.Helper()
	var v T
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return v
}

type errorAnswer struct {
	Error errorBody `json:"error"`
}

type sandboxAnswer struct {
	ID         string            `json:"id"`
	Name       *string           `json:"name"`
	State      models.State      `json:"state"`
	Reason     *string           `json:"state_reason"`
	VCPUs      int               `json:"vcpus"`
	MemoryMiB  int               `json:"memory_mib"`
	DiskMiB    int               `json:"disk_mib"`
	Metadata   map[string]string `json:"metadata"`
	StartedAt  *time.Time        `json:"started_at"`
	Generation int               `json:"generation"`
	Timings    []stepView        `json:"timings"`
}

func (r *rig) create() sandboxAnswer {
	r.t.Helper()
	return decoded[sandboxAnswer](r.t, r.call("POST", "/v1/sandboxes", `{"template":"minimal"}`), http.StatusCreated)
}

// terminate cuts every connection to the database, as a restart of Postgres does.
func (r *rig) terminate() {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dbs.PostgresURL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(r.t.Context(),
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if err != nil {
		r.t.Fatal(err)
	}
}

var contract = sync.OnceValues(func() (validator.Validator, error) {
	doc, err := libopenapi.NewDocument(spec)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions(), config.WithContentAssertions())
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return v, nil
})

// conform fails t unless openapi.yaml allows the response.
func conform(t testing.TB, req *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	v, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get(requestIDHeader) == "" {
		t.Errorf("%s %s: no %s", req.Method, req.URL.Path, requestIDHeader)
	}
	documented := documented(t, req, resp.StatusCode)
	held := *resp
	held.Body = io.NopCloser(bytes.NewReader(body))
	if ok, errs := v.ValidateHttpResponse(documented, &held); !ok {
		for _, e := range errs {
			t.Errorf("%s %s: %s: %s %v", req.Method, req.URL, e.Message, e.Reason, e.SchemaValidationErrors)
		}
		t.Logf("%d %s", resp.StatusCode, body)
	}
}

var (
	routes = regexp.MustCompile(`^/(healthz|readyz|openapi.yaml|v1/(templates|hosts(/(join|audit|tokens(/[^/]+)?|[^/]+(/(drain|undrain))?))?|webhooks(/[^/]+(/(rotate|ping|deliveries(/[^/]+/retry)?))?)?|pool|usage|audit|events|api-keys(/[^/]+(/rotate)?)?|snapshots(/[^/]+)?|sandboxes(/[^/]+(/(exec|pause|resume|hibernate|fork|snapshots|files|files/x|files/(mkdir|move|chmod)|logs|events|watch|network|network/refusals|port-tokens|tcp/[0-9]+|terminal|terminal-tickets|` +
		`processes(/[0-9]+(/(output|stdin|signal|resize|wait))?)?|contexts(/ctx-[0-9a-f]{8}(/(execute|interrupt))?)?))?)?))$`)
	fileOperation = regexp.MustCompile(`/files/(mkdir|move|chmod)$`)
)

// documented is the request in the form that openapi.yaml has: a file's path is one element
// there, and what is no route at all is held against the errors of one that is.
func documented(t testing.TB, req *http.Request, status int) *http.Request {
	t.Helper()
	out := req.Clone(req.Context())
	path := req.URL.Path
	if at := strings.Index(path, "/files/"); at >= 0 && (req.Method != http.MethodPost || !fileOperation.MatchString(path)) {
		path = path[:at] + "/files/x"
	}
	if status == http.StatusMethodNotAllowed || !routes.MatchString(path) {
		out.Method, path = http.MethodGet, "/v1/templates"
	}
	out.URL = &url.URL{Scheme: "http", Host: "127.0.0.1:8000", Path: path, RawQuery: req.URL.RawQuery}
	return out
}
