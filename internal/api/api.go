// Package api is the HTTP face of the control plane: it knows who asks, checks what is
// asked, calls the controller, and gives the answer its form. openapi.yaml is its contract;
// the tests hold every response against it.
//
// Whatever is not in order is a coded error with a hint, never a guess: unknown members and
// parameters, values of the wrong type, bodies too large. Bodies of files are streamed in
// both directions with constant memory.
package api

import (
	"context"
	_ "embed" // for openapi.yaml
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/eventfeed"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/portproxy"
)

//go:embed openapi.yaml
var spec []byte

// Limits of requests. The zero value of each means its default.
type Limits struct {
	JSONBody int64         // bytes; 1 MiB
	Upload   int64         // bytes; 16 GiB
	Output   int           // bytes of stdout and of stderr in an exec's result; 1 MiB
	Idle     time.Duration // without a byte in a stream, after which its connection is closed; 60 s
	Exec     time.Duration // of a program whose request sets no timeout; 5 min
	KeepOpen time.Duration // between the comments that keep an event stream open; 15 s

	ClaimLease time.Duration // after which a request with the idempotency key of one that has not been heard of takes over; 15 s
	ClaimWait  time.Duration // that it waits for one that is under way; 20 s
}

func (l Limits) withDefaults() Limits {
	def := Limits{
		JSONBody: 1 << 20, Upload: 16 << 30, Output: 1 << 20,
		Idle: time.Minute, Exec: 5 * time.Minute, KeepOpen: 15 * time.Second,
		ClaimLease: 15 * time.Second, ClaimWait: 20 * time.Second,
	}
	l.JSONBody, l.Upload, l.Output = orDefault(l.JSONBody, def.JSONBody), orDefault(l.Upload, def.Upload), orDefault(l.Output, def.Output)
	l.Idle, l.Exec, l.KeepOpen = orDefault(l.Idle, def.Idle), orDefault(l.Exec, def.Exec), orDefault(l.KeepOpen, def.KeepOpen)
	l.ClaimLease, l.ClaimWait = orDefault(l.ClaimLease, def.ClaimLease), orDefault(l.ClaimWait, def.ClaimWait)
	return l
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Options of a Server. All but Limits, Redis, Limiter, Meter, Domain and WebhookNetworks are required.
type Options struct {
	Store      *db.Store
	Auth       *auth.Authenticator
	Controller *controller.Controller
	Redis      *auth.Cache // nil: readiness says that it is not configured
	Feed       *eventfeed.Feed
	Log        *slog.Logger
	Limits     Limits
	Limiter    *auth.Limiter // nil: requests may come as often as they like
	Meter      Meter         // zero: nobody counts them
	Domain     string        // below which the ports of sandboxes have host names; empty for none

	WebhookNetworks []netip.Prefix // that are not public, to which webhooks may lead
}

// Server answers requests.
type Server struct {
	Options
	ports  *portproxy.Proxy
	grants grants
	ending context.Context // see End
	end    context.CancelCauseFunc
}

// New returns a server.
func New(opts Options) *Server {
	opts.Limits = opts.Limits.withDefaults()
	s := &Server{Options: opts, grants: grants{store: opts.Store}}
	s.ending, s.end = context.WithCancelCause(context.Background())
	s.ports = portproxy.New(opts.Log, s.portFailed)
	return s
}

// Handler returns all routes.
func (s *Server) Handler() chi.Router {
	r := chi.NewRouter()
	r.Use(s.identify, s.logAccess, s.recoverPanic, s.portsByHost)
	r.NotFound(s.handle(noRoute))
	r.MethodNotAllowed(s.handle(wrongMethod))
	r.Get("/healthz", s.handle(s.health))
	r.Get("/readyz", s.handle(s.ready))
	r.Get("/openapi.yaml", s.handle(s.openapi))
	// No router of its own: a wrong method could not be told from a right one there.
	const sandbox = "/sandboxes/{id}"
	// These know other ways to tell who asks than an API key.
	for _, method := range portMethods {
		r.Method(method, "/v1"+sandbox+"/ports/{port}", s.handlePort(s.portByPath))
		r.Method(method, "/v1"+sandbox+"/ports/{port}/*", s.handlePort(s.portByPath))
	}
	r.Get("/v1"+sandbox+"/terminal", s.handle(s.terminal))
	r.Post("/v1/hosts/join", s.handle(s.joinHost)) // a token says who asks
	r.Route("/v1", func(r chi.Router) {
		r.Use(s.authenticate, s.limit, s.idempotent)
		r.Get("/templates", s.handle(s.listTemplates))
		r.Get("/pool", s.handle(s.getPool))
		r.Get("/usage", s.handle(s.getUsage))
		r.Get("/audit", s.handle(s.listAudit))
		r.Get("/api-keys", s.handle(s.listKeys))
		r.Post("/api-keys", s.handle(s.createKey))
		r.Delete("/api-keys/{id}", s.handle(s.revokeKey))
		r.Post("/api-keys/{id}/rotate", s.handle(s.rotateKey))
		r.Post("/sandboxes", s.handle(s.createSandbox))
		r.Get("/sandboxes", s.handle(s.listSandboxes))
		r.Get(sandbox, s.handle(s.getSandbox))
		r.Patch(sandbox, s.handle(s.changeSandbox))
		r.Delete(sandbox, s.handle(s.destroySandbox))
		r.Post(sandbox+"/pause", s.handle(s.pauseSandbox))
		r.Post(sandbox+"/resume", s.handle(s.resumeSandbox))
		r.Post(sandbox+"/fork", s.handle(s.forkSandbox))
		r.Post(sandbox+"/snapshots", s.handle(s.createSnapshot))
		r.Get("/snapshots", s.handle(s.listSnapshots))
		r.Get("/snapshots/{id}", s.handle(s.getSnapshot))
		r.Delete("/snapshots/{id}", s.handle(s.deleteSnapshot))
		r.Post(sandbox+"/hibernate", s.handle(s.hibernateSandbox))
		r.Get(sandbox+"/network", s.handle(s.getNetwork))
		r.Get(sandbox+"/network/refusals", s.handle(s.listRefusals))
		r.Post(sandbox+"/exec", s.handle(s.exec))
		r.Get(sandbox+"/files", s.handle(s.readFile))
		r.Put(sandbox+"/files", s.handle(s.writeFile))
		r.Get(sandbox+"/files/*", s.handle(s.readFile))
		r.Put(sandbox+"/files/*", s.handle(s.writeFile))
		r.Delete(sandbox+"/files", s.handle(s.removeFile))
		r.Delete(sandbox+"/files/*", s.handle(s.removeFile))
		r.Post(sandbox+"/files/mkdir", s.handle(s.makeDirectory))
		r.Post(sandbox+"/files/move", s.handle(s.moveFile))
		r.Post(sandbox+"/files/chmod", s.handle(s.changeMode))
		r.Get(sandbox+"/watch", s.handle(s.watch))
		r.Post(sandbox+"/processes", s.handle(s.startProcess))
		r.Get(sandbox+"/processes", s.handle(s.listProcesses))
		const process = sandbox + "/processes/{pid}"
		r.Get(process, s.handle(s.getProcess))
		r.Delete(process, s.handle(s.killProcess))
		r.Get(process+"/output", s.handle(s.processOutput))
		r.Post(process+"/stdin", s.handle(s.processStdin))
		r.Post(process+"/signal", s.handle(s.signalProcess))
		r.Post(process+"/resize", s.handle(s.resizeProcess))
		r.Get(process+"/wait", s.handle(s.waitProcess))
		r.Post(sandbox+"/contexts", s.handle(s.createContext))
		r.Get(sandbox+"/contexts", s.handle(s.listContexts))
		const context = sandbox + "/contexts/{context}"
		r.Get(context, s.handle(s.getContext))
		r.Delete(context, s.handle(s.deleteContext))
		r.Post(context+"/execute", s.handle(s.executeCode))
		r.Post(context+"/interrupt", s.handle(s.interruptContext))
		r.Get(sandbox+"/tcp/{port}", s.handle(s.connectTCP))
		r.Post(sandbox+"/port-tokens", s.handle(s.createPortToken))
		r.Post(sandbox+"/terminal-tickets", s.handle(s.createTerminalTicket))
		r.Get(sandbox+"/logs", s.handle(s.readLogs))
		r.Get(sandbox+"/events", s.handle(s.sandboxEvents))
		r.Get("/events", s.handle(s.events))
		const hook = "/webhooks/{id}"
		r.Post("/webhooks", s.handle(s.createWebhook))
		r.Get("/webhooks", s.handle(s.listWebhooks))
		r.Get(hook, s.handle(s.getWebhook))
		r.Patch(hook, s.handle(s.changeWebhook))
		r.Delete(hook, s.handle(s.deleteWebhook))
		r.Post(hook+"/rotate", s.handle(s.rotateWebhook))
		r.Post(hook+"/ping", s.handle(s.pingWebhook))
		r.Get(hook+"/deliveries", s.handle(s.listDeliveries))
		r.Post(hook+"/deliveries/{delivery}/retry", s.handle(s.retryDelivery))
		s.hostRoutes(r)
	})
	return r
}

// handler answers a request, or returns why it cannot, before it has written anything.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.writeError(w, r, err)
		}
	}
}

func (s *Server) openapi(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(spec) // a client that has gone needs no answer
	return nil
}

// about is what the middlewares know of a request.
type about struct {
	requestID string
	principal auth.Principal // zero before it is authenticated
	cause     error          // of an error response, for the log
	claim     *db.Claim      // of its idempotency key; nil for none
	reached   bool           // it may have had an effect inside a sandbox
	port      bool           // it goes to a port of one
}

type aboutKey struct{}

func aboutOf(ctx context.Context) *about { return ctx.Value(aboutKey{}).(*about) }
