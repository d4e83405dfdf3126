package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	testKey = "wrn_0123456789abcdef0123456789abcdef"
	testID  = "sb-01234567"
)

// serve answers with handler and returns a client of it that does not wait long between repetitions.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return clientOf(t, server.URL)
}

func clientOf(t *testing.T, url string) *Client {
	t.Helper()
	c, err := NewClient(Options{BaseURL: url, APIKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	c.backoff = time.Millisecond
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// answer writes a JSON answer.
func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "req-0123456789abcdef")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client's test sees what is missing
}

const sandboxJSON = `{"id":"sb-01234567","name":null,"template":"python311","state":"running","state_reason":null,"vcpus":1,
"memory_mib":256,"disk_mib":null,"metadata":{"k":"v"},"host_id":"host-01234567","created_at":"2026-01-02T03:04:05.678Z",
"started_at":null,"updated_at":"2026-01-02T03:04:05.678Z","state_deadline":null,"generation":3,"timings":[{"step":"boot","ms":12.5}]}`

func TestCreateSandboxSendsWhatWasAskedFor(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Method + " " + r.URL.String(); got != "POST /v1/sandboxes" {
			t.Errorf("request %s", got)
		}
		if r.Header.Get("X-API-Key") != testKey || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", r.Header)
		}
		var got map[string]any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		want := map[string]any{"template": "python311", "vcpus": 2.0, "memory_mib": 512.0, "env": map[string]any{"A": "b"}, "name": "n"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("body %v", got)
		}
		answer(w, 201, sandboxJSON)
	})
	s, err := c.CreateSandbox(t.Context(), CreateSandboxRequest{Template: "python311", VCPUs: 2, MemoryMiB: 512, Env: map[string]string{"A": "b"}, Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	want := &Sandbox{ID: testID, Template: "python311", State: Running, VCPUs: 1, MemoryMiB: 256, Metadata: map[string]string{"k": "v"},
		HostID: "host-01234567", CreatedAt: at, UpdatedAt: at, Generation: 3, Timings: []Timing{{"boot", 12.5}}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v", s)
	}
}

func TestSandboxWithoutKnownTimesOmitsThem(t *testing.T) {
	b, err := json.Marshal(Sandbox{ID: testID})
	if err != nil || strings.Contains(string(b), "started_at") || strings.Contains(string(b), "state_deadline") {
		t.Errorf("%s, %v", b, err)
	}
}

func TestGetAndDestroy(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, strings.Replace(sandboxJSON, "python311", r.Method+" "+r.URL.Path, 1))
	})
	for method, call := range map[string]func(context.Context, string) (*Sandbox, error){"GET": c.GetSandbox, "DELETE": c.DestroySandbox} {
		s, err := call(t.Context(), testID)
		if err != nil || s.Template != method+" /v1/sandboxes/"+testID {
			t.Errorf("%s: %+v, %v", method, s, err)
		}
	}
}

func TestListGoesThroughAllPages(t *testing.T) {
	var queries []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		next := `"p2"`
		if r.URL.Query().Get("cursor") == "p2" {
			next = "null"
		}
		answer(w, 200, `{"items":[`+sandboxJSON+`,`+sandboxJSON+`],"next_cursor":`+next+`}`)
	})
	n := 0
	for s, err := range c.AllSandboxes(t.Context(), ListOptions{States: []State{Running, Stopped}, Template: "a b", Limit: 2, Metadata: map[string]string{"k": "v"}}) {
		if err != nil || s.ID != testID {
			t.Fatalf("%+v, %v", s, err)
		}
		n++
	}
	want := []string{"limit=2&metadata.k=v&state=running&state=stopped&template=a+b", "cursor=p2&limit=2&metadata.k=v&state=running&state=stopped&template=a+b"}
	if n != 4 || !reflect.DeepEqual(queries, want) {
		t.Errorf("%d sandboxes, queries %q", n, queries)
	}
}

func TestSetMetadata(t *testing.T) {
	var bodies []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // what is missing is seen below
		bodies = append(bodies, r.Method+" "+string(b))
		answer(w, 200, sandboxJSON)
	})
	for _, m := range []map[string]string{{"a": "b"}, nil} {
		if s, err := c.SetMetadata(t.Context(), testID, m); err != nil || s.ID != testID {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if want := []string{`PATCH {"metadata":{"a":"b"}}`, `PATCH {"metadata":{}}`}; !reflect.DeepEqual(bodies, want) {
		t.Errorf("sent %q", bodies)
	}
}

func TestListEndsAfterAnError(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 401, `{"error":{"code":"unauthenticated","message":"no","request_id":"req-1"}}`)
	})
	n := 0
	for _, err := range c.AllSandboxes(t.Context(), ListOptions{}) {
		if n++; CodeOf(err) != Unauthenticated {
			t.Errorf("error %v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d rounds", n)
	}
}

func TestEventsTemplatesLogsReady(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/sandboxes/" + testID + "/events":
			answer(w, 200, `{"items":[{"from":null,"to":"pending","reason":null,"actor":"key-01234567","at":"2026-01-02T03:04:05Z","generation":1}]}`)
		case "/v1/templates":
			answer(w, 200, `{"items":[{"name":"minimal","digest":"d","description":"x","disk_mib":100,"default_vcpus":1,"default_memory_mib":128}]}`)
		case "/v1/sandboxes/" + testID + "/logs":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "booting\n")
		case "/readyz":
			answer(w, 503, `{"status":"failed","checks":[{"name":"hosts","status":"failed","detail":"none yet"}]}`)
		}
	})
	events, err := c.Events(t.Context(), testID)
	if err != nil || len(events) != 1 || events[0].To != Pending || events[0].From != "" || events[0].At.IsZero() {
		t.Errorf("events %+v, %v", events, err)
	}
	templates, err := c.Templates(t.Context())
	if err != nil || !reflect.DeepEqual(templates, []Template{{"minimal", "d", "x", 100, 1, 128}}) {
		t.Errorf("templates %+v, %v", templates, err)
	}
	if logs, err := c.Logs(t.Context(), testID); err != nil || logs != "booting\n" {
		t.Errorf("logs %q, %v", logs, err)
	}
	ready, err := c.Ready(t.Context())
	if err != nil || !reflect.DeepEqual(ready, &Readiness{"failed", []Check{{"hosts", "failed", "none yet"}}}) {
		t.Errorf("readiness %+v, %v", ready, err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   Error
	}{
		"the service's": {404, `{"error":{"code":"not_found","message":"no sandbox","hint":"look","request_id":"req-a"}}`,
			Error{NotFound, "no sandbox", "look", "req-a", 404}},
		"a proxy's": {502, "<html>bad gateway</html>",
			Error{Unavailable, "the service answered 502 Bad Gateway without an explanation", "", "req-0123456789abcdef", 502}},
		"a redirect": {302, "",
			Error{Internal, "the service answered 302 Found without an explanation", "", "req-0123456789abcdef", 302}},
		"too large": {413, "{}",
			Error{Invalid, "the service answered 413 Request Entity Too Large without an explanation", "", "req-0123456789abcdef", 413}},
		"endless": {429, strings.Repeat("x", 10*maxErrorBody),
			Error{Exhausted, "the service answered 429 Too Many Requests without an explanation", "", "req-0123456789abcdef", 429}},
	} {
		client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if c.status == 302 {
				w.Header().Set("Location", "http://192.0.2.1/stolen")
			}
			answer(w, c.status, c.body)
		})
		_, err := client.GetSandbox(t.Context(), testID)
		var got *Error
		if !errors.As(err, &got) || *got != c.want {
			t.Errorf("%s: %#v", name, err)
		}
	}
}

func TestStatusesHaveCodes(t *testing.T) {
	for status, want := range map[int]Code{400: Invalid, 401: Unauthenticated, 403: Forbidden, 404: NotFound, 405: Invalid, 408: Deadline,
		409: Conflict, 413: Invalid, 429: Exhausted, 500: Internal, 501: Internal, 502: Unavailable, 503: Unavailable, 504: Deadline} {
		if got := codeOfStatus(status); got != want {
			t.Errorf("%d: %s, not %s", status, got, want)
		}
	}
}

func TestWrongInputIsRefusedBeforeItIsSent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("sent %s", r.URL) })
	ctx, bad := t.Context(), "\xff"
	for name, call := range map[string]func() error{
		"empty id":      func() error { _, err := c.GetSandbox(ctx, ""); return err },
		"path as id":    func() error { _, err := c.DestroySandbox(ctx, "../templates"); return err },
		"dots as id":    func() error { _, err := c.Logs(ctx, ".."); return err },
		"query as id":   func() error { _, err := c.Events(ctx, "sb-0?x=y"); return err },
		"exec id":       func() error { _, err := c.Exec(ctx, "a/b", ExecRequest{}); return err },
		"stream id":     func() error { _, err := c.ExecStream(ctx, "a b", ExecRequest{}); return err },
		"file id":       func() error { _, err := c.WriteFile(ctx, "", "/x", nil); return err },
		"no path":       func() error { _, err := c.ReadFile(ctx, testID, ""); return err },
		"path's bytes":  func() error { _, err := c.ReadFile(ctx, testID, bad); return err },
		"stdin's bytes": func() error { _, err := c.Exec(ctx, testID, ExecRequest{Cmd: "cat", Stdin: bad}); return err },
		"args' bytes": func() error {
			_, err := c.Exec(ctx, testID, ExecRequest{Cmd: "a", Args: []string{"b", bad}})
			return err
		},
		"env's bytes": func() error {
			_, err := c.Exec(ctx, testID, ExecRequest{Cmd: "a", Env: map[string]string{"A": bad}})
			return err
		},
		"metadata's bytes": func() error {
			_, err := c.CreateSandbox(ctx, CreateSandboxRequest{Template: "t", Metadata: map[string]string{bad: "v"}})
			return err
		},
	} {
		if err := call(); CodeOf(err) != Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, url := range []string{"127.0.0.1:8000", "ftp://x", "http://", "unix:///x", "http://x?y=z", "http://[::1"} {
		if _, err := NewClient(Options{BaseURL: url}); CodeOf(err) != Invalid {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := NewClient(Options{APIKey: "wrn_\r\nX: y"}); CodeOf(err) != Invalid {
		t.Errorf("a key with a line break: %v", err)
	}
	c, err := NewClient(Options{BaseURL: "http://x/prefix/"})
	if err != nil || c.base != "http://x/prefix" {
		t.Errorf("base %q, %v", c.base, err)
	}
}

// refused is the address of a port that nobody listens on.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRefusedConnectionIsTriedAgain(t *testing.T) {
	c := clientOf(t, "http://"+refused(t))
	var dials atomic.Int32
	c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	_, err := c.CreateSandbox(t.Context(), CreateSandboxRequest{Template: "t"})
	if err == nil || CodeOf(err) != Unavailable || dials.Load() != 4 {
		t.Errorf("%d connections, %v", dials.Load(), err)
	}
	dials.Store(0)
	if _, err := c.WriteFile(t.Context(), testID, "/x", strings.NewReader("x")); err == nil || dials.Load() != 1 {
		t.Errorf("an upload made %d connections, %v", dials.Load(), err)
	}
}

// TestRepetitionsAreSafe: what is repeated only reads, or carries the same key each time.
func TestRepetitionsAreSafe(t *testing.T) {
	var calls atomic.Int32
	keys := map[string]bool{}
	status := http.StatusServiceUnavailable
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		keys[r.Header.Get("Idempotency-Key")] = true
		if calls.Add(1) < 3 {
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Retry-After", "0")
			answer(w, status, `{"error":{"code":"unavailable","message":"later","request_id":"r"}}`)
			return
		}
		answer(w, 200, sandboxJSON)
	})
	all := map[string]func(context.Context) error{
		"get": func(ctx context.Context) error { _, err := c.GetSandbox(ctx, testID); return err },
		"create": func(ctx context.Context) error {
			_, err := c.CreateSandbox(ctx, CreateSandboxRequest{Template: "t"})
			return err
		},
		"destroy": func(ctx context.Context) error { _, err := c.DestroySandbox(ctx, testID); return err },
		"exec":    func(ctx context.Context) error { _, err := c.Exec(ctx, testID, ExecRequest{Cmd: "true"}); return err },
	}
	for _, status = range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusConflict, 0} {
		for name, call := range all {
			if name == "get" && (status == http.StatusConflict || status == 0) {
				continue
			}
			clear(keys)
			calls.Store(0)
			if err := call(t.Context()); err != nil || calls.Load() != 3 || len(keys) != 1 || keys[""] != (name == "get") {
				t.Errorf("%s, %d: %d calls with the keys %v, %v", name, status, calls.Load(), keys, err)
			}
		}
	}
	clear(keys)
	if err := all["create"](WithIdempotencyKey(t.Context(), "mine")); err != nil || !keys["mine"] {
		t.Errorf("a key of the caller's: %v, %v", keys, err)
	}
	calls.Store(0)
	status = http.StatusServiceUnavailable
	if err := all["create"](WithIdempotencyKey(t.Context(), "")); err == nil || calls.Load() != 1 {
		t.Errorf("without a key it was sent %d times, %v", calls.Load(), err)
	}
}

func TestRetriesHaveLimits(t *testing.T) {
	var calls atomic.Int32
	for name, c := range map[string]struct {
		retryAfter string
		max        int
		want       int32
	}{
		"always busy": {"0", 0, 4}, "switched off": {"0", -1, 1}, "no header": {"", 0, 1}, "a date": {"Wed, 21 Oct 2026 07:28:00 GMT", 0, 1},
		"an hour": {"3600", 0, 1}, "beyond the context": {"20", 0, 1}, "negative": {"-5", 0, 1},
	} {
		client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			w.Header().Set("Retry-After", c.retryAfter)
			answer(w, 503, "")
		})
		if c.max != 0 {
			client.opts.MaxRetries = c.max
		}
		calls.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		_, err := client.Templates(ctx)
		cancel()
		if CodeOf(err) != Unavailable || calls.Load() != c.want {
			t.Errorf("%s: %d calls, %v", name, calls.Load(), err)
		}
	}
}

// TestStreamsAreNotRepeated: a transport error after the request was sent must not run a program twice, or send half a body again.
func TestStreamsAreNotRepeated(t *testing.T) {
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.Header.Get("Idempotency-Key") != "" {
			t.Errorf("%s %s has a key", r.Method, r.URL)
		}
		panic(http.ErrAbortHandler)
	})
	for name, call := range map[string]func() error{
		"exec":  func() error { _, err := c.ExecStream(t.Context(), testID, ExecRequest{Cmd: "pay"}); return err },
		"write": func() error { _, err := c.WriteFile(t.Context(), testID, "/x", strings.NewReader("x")); return err },
	} {
		calls.Store(0)
		if err := call(); CodeOf(err) != Unavailable || calls.Load() != 1 {
			t.Errorf("%s: %d calls, %v", name, calls.Load(), err)
		}
	}
}

func TestCallsObeyContextAndTimeout(t *testing.T) {
	release := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Templates(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.opts.Timeout = 20 * time.Millisecond
	if _, err := c.Templates(t.Context()); CodeOf(err) != Deadline {
		t.Errorf("timed out: %v", err)
	}
}

func TestHugeAnswerIsRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := strings.Repeat(" ", 1<<20)
		for range maxBody>>20 + 2 {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	})
	if _, err := c.Templates(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxBody)) {
		t.Errorf("an endless answer gave %v", err)
	}
}
