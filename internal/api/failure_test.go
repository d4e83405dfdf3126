package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

func (r *rig) readiness() (int, readiness) {
	r.t.Helper()
	a := r.call("GET", "/readyz", "", "X-API-Key", "")
	return a.status, decoded[readiness](r.t, a, a.status)
}

func TestHealth(t *testing.T) {
	r := newRig(t, Limits{})
	if a := r.call("GET", "/healthz", "", "X-API-Key", ""); a.status != http.StatusOK {
		t.Errorf("healthz %d", a.status)
	}
	if a := r.call("GET", "/openapi.yaml", "", "X-API-Key", ""); a.status != http.StatusOK || string(a.body) != string(spec) {
		t.Errorf("openapi.yaml %d, %d bytes", a.status, len(a.body))
	}
	if status, ready := r.readiness(); status != http.StatusOK || ready.Status != isReady || len(ready.Checks) != 3 {
		t.Errorf("readyz %d %+v", status, ready)
	}
	r.sim.Kill()
	r.eventually("readyz notices the agent's end", func() bool {
		status, ready := r.readiness()
		return status == http.StatusOK && ready.Status == isDegraded && ready.Checks[2].Status == isDegraded
	})
	r.sim.Restart()
	r.eventually("readyz notices that the agent is back", func() bool {
		_, ready := r.readiness()
		return ready.Status == isReady
	})
}

// TestRedisDies: everything goes on without it, and readyz says so.
func TestRedisDies(t *testing.T) {
	dbs := stacktest.ForTest(t)
	proxy := newProxy(t, dbs.RedisURL)
	dbs.RedisURL = "redis://" + proxy.addr()
	r := newRigOn(t, dbs, Limits{})
	if status, ready := r.readiness(); status != 200 || ready.Status != isReady {
		t.Fatalf("readyz %d %+v", status, ready)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := r.call("GET", "/v1/templates", ""); a.status != http.StatusOK {
					t.Errorf("status %d: %s", a.status, a.body)
					return
				}
			}
		})
	}
	proxy.die()
	r.eventually("readyz notices Redis' end", func() bool {
		status, ready := r.readiness()
		return status == http.StatusOK && ready.Status == isDegraded && ready.Checks[1].Status == isDegraded
	})
	r.create()
	close(stop)
	wg.Wait()
}

// TestPostgresRestarts: whoever asks meanwhile waits a little and is answered.
func TestPostgresRestarts(t *testing.T) {
	r := newRig(t, Limits{})
	for range 5 {
		sb := r.create().ID
		r.terminate()
		if got := r.exec(sb, `{"cmd":"echo","args":["x"]}`); got.Stdout != "x\n" {
			t.Errorf("exec %+v", got)
		}
		r.terminate()
		if got := decoded[sandboxAnswer](t, r.call("DELETE", "/v1/sandboxes/"+sb, ""), http.StatusOK); got.State != models.Stopped {
			t.Errorf("destroy %+v", got)
		}
	}
}

func TestDatabaseGone(t *testing.T) {
	r := newRig(t, Limits{})
	r.call("GET", "/v1/templates", "") // the key is cached
	r.store.Close()
	status, ready := r.readiness()
	if status != http.StatusServiceUnavailable || ready.Status != isFailed {
		t.Errorf("readyz %d %+v", status, ready)
	}
	if a := r.call("GET", "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("healthz %d", a.status)
	}
}

func TestPanic(t *testing.T) {
	r := newRig(t, Limits{})
	s := New(Options{Log: slog.New(slog.NewTextHandler(r.log, nil))})
	for name, h := range map[string]http.HandlerFunc{
		"before": func(http.ResponseWriter, *http.Request) { panic("the secret") },
		"after": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			panic("the secret")
		},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: s.identify(s.logAccess(s.recoverPanic(h))), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go func() { _ = srv.Serve(l) }() // ends with Close
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case name == "before" && (resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(b), `"internal"`) || strings.Contains(string(b), "secret")):
			t.Errorf("%s: %d %s", name, resp.StatusCode, b)
		case name == "after" && err == nil:
			t.Errorf("%s: the client takes %q for the whole", name, b)
		}
		srv.Close()
	}
	if !strings.Contains(r.log.String(), "the secret") {
		t.Error("the panic is not in the log")
	}
}

// TestCreateGoesOnWithoutItsClient over HTTP: the list shows the outcome.
func TestCreateGoesOnWithoutItsClient(t *testing.T) {
	r := newRig(t, Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error { cancel(); return nil }, nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.server.URL+"/v1/sandboxes", strings.NewReader(`{"template":"minimal"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", string(r.key))
	req.Header.Set("Content-Type", "application/json")
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close() // the answer was faster
	}
	r.eventually("the sandbox runs", func() bool { return len(r.list("?state=running").Items) == 1 })
}

// TestServeDrains: requests under way are answered, new ones are not taken, and what takes
// longer than the drain is cut off.
func TestServeDrains(t *testing.T) {
	begun, proceed := make(chan struct{}, 2), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		if r.URL.Path == "/long" {
			<-r.Context().Done()
			return
		}
		<-proceed
		_, _ = io.WriteString(w, "answered")
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h, 500*time.Millisecond, slog.New(slog.DiscardHandler)) }()
	answers := make(chan string, 2)
	for _, path := range []string{"/short", "/long"} {
		go func() {
			resp, err := http.Get("http://" + l.Addr().String() + path)
			if err != nil {
				answers <- path + " cut off"
				return
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			answers <- path + " " + string(b)
		}()
		<-begun
	}
	cancel()
	close(proceed)
	if a := <-answers; a != "/short answered" {
		t.Errorf("first answer: %s", a)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	<-answers // whatever it is, it has ended
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("a connection was taken after the end")
	}
}

// proxy forwards connections to a Redis until it dies.
type proxy struct {
	l     net.Listener
	mu    sync.Mutex // guards what follows
	conns []net.Conn
	dead  bool
	wg    sync.WaitGroup
}

func newProxy(t *testing.T, redisURL string) *proxy {
	t.Helper()
	opts, err := redis.ParseURL(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l}
	p.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(opts.Network, opts.Addr)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			if p.dead { // since this connection was accepted
				in.Close()
				out.Close()
			}
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			p.wg.Go(func() { pipe(in, out) })
			p.wg.Go(func() { pipe(out, in) })
		}
	})
	t.Cleanup(p.die)
	return p
}

func pipe(a, b net.Conn) {
	_, err := io.Copy(a, b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return // one side was reset
	}
	a.Close()
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) die() {
	p.l.Close()
	p.mu.Lock()
	p.dead = true
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
