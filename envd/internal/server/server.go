// Package server is envd's HTTP server: the process service, files, and what the host uses
// to take a guest over and to look at it.
//
//	POST /process.Process/*        package processrpc (Connect)
//	POST /filesystem.Filesystem/*  package filesystemrpc (Connect)
//	GET, POST /files               package files, with a signature too
//	POST /files/compose, /chmod    package files
//	GET, POST /archive             package files
//	GET /health                    204, with envd's version in X-Envd-Version
//	GET /metrics, /envs            JSON
//	POST /init                     what the host knows and the guest does not; sets the token
//	POST /resume                   what a guest has to renew that was restored from a snapshot
//	POST /scrub                    fills free memory with zeros, before a guest is frozen that others are made from
//	POST /forget                   has such a guest forget its token, what it was told and what it has run
//	POST /shutdown                 orderly end of the guest
//	POST /authorize                lets the connection's later requests do without the token
//	GET /ports/{port}              a connection to a server in the guest
//
// Only the host reaches the listeners that it is given, and yet nothing but /health is answered
// without the token: before the first /init has set one, nothing but that /init, a /resume or a /scrub.
package server

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/boot"
	"github.com/wrenn-sandbox/wrenn/envd/internal/files"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystemrpc"
	"github.com/wrenn-sandbox/wrenn/envd/internal/hook"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/serve"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
	"github.com/wrenn-sandbox/wrenn/envd/internal/processrpc"
	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Limits of the server. Bodies have limits of their own; a stream may last as long as it likes.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 640 * time.Second // as E2B's envd; the host closes idle connections earlier
	maxHeader      = 64 << 10
	maxConnections = 1024
)

// HeaderVersion is a response header of /health and /init.
const HeaderVersion = "X-Envd-Version"

// Options configure a Server. Reaper is required.
type Options struct {
	Version string
	Logger  *slog.Logger // nil: discard
	// Debug is the mode of development: no token is needed until an /init has set one.
	Debug bool
	// Shutdown begins the end of the guest and returns at once. Nil: /shutdown is refused.
	Shutdown func(reason string)
	// Reconfigure applies what /init says about host name, network and time. Nil: it is ignored.
	Reconfigure func(ctx context.Context, s boot.Settings) error
	// Resume gives a restored guest its identity. Nil: that is ignored.
	Resume func(ctx context.Context, id boot.Identity) []boot.Result
	// Scrub fills the guest's free memory with zeros. Nil: /scrub is refused.
	Scrub func() error
	// Sync writes what waits for the guest's disk. Nil: /forget is refused.
	Sync func() error
	// ResumeHooks is the folder of what /resume runs; empty for none.
	ResumeHooks string
	Reaper      *reap.Reaper
	// Direct is for a guest, whose host caches its disk: large files go past the guest's own cache.
	Direct bool
	// Users is the account database; its zero value means the system's.
	Users user.Database
}

// Server serves any number of listeners. Its methods may be called at the same time.
type Server struct {
	opts      Options
	session   *session.Session
	processes *process.Service
	files     *filesystem.Service
	handler   http.Handler
	http      *serve.Server
	stat      cpuMeter
	splices   splices
	hooks     hook.Runner
	initMu    sync.Mutex // held during /init and /resume, so that one is applied at a time
}

// New returns a server; Close frees what it holds.
func New(opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Users == (user.Database{}) {
		opts.Users = user.System
	}
	s := &Server{
		opts: opts, session: session.New(defaultUser(opts)),
		processes: process.New(opts.Reaper), files: filesystem.New(opts.Users),
		hooks: hook.Runner{Reaper: opts.Reaper, Dir: opts.ResumeHooks},
	}
	s.handler = s.authorize(s.routes())
	s.http = &serve.Server{
		Service: http.Service{
			Handler: s, HeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeader: maxHeader, Logger: opts.Logger,
		},
		MaxConnections: maxConnections, Context: remember,
	}
	return s
}

// defaultUser is session.FallbackUser, or on a developer's machine that has none, the user
// that envd runs as.
func defaultUser(opts Options) string {
	if !opts.Debug {
		return session.FallbackUser
	}
	if _, err := opts.Users.Lookup(session.FallbackUser); err == nil {
		return session.FallbackUser
	}
	own, err := opts.Users.LookupUID(uint32(os.Geteuid()))
	if err != nil {
		return session.FallbackUser
	}
	return own.Name
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /envs", s.envs)
	mux.HandleFunc("POST /init", s.init)
	mux.HandleFunc("POST /resume", s.resume)
	mux.HandleFunc("POST /scrub", s.scrub)
	mux.HandleFunc("POST /forget", s.forget)
	mux.HandleFunc("POST /shutdown", s.shutdown)
	mux.HandleFunc("POST /authorize", s.authorizeConnection)
	mux.HandleFunc("GET /ports/{port}", s.port)
	files.New(s.session, s.opts.Users, s.opts.Direct).Mount(mux)
	processrpc.New(s.processes, s.session, s.opts.Users).Mount(mux)
	filesystemrpc.New(s.files, s.session, s.opts.Users).Mount(mux)
	return mux
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Serve answers what comes in on l, in HTTP/1.1 or HTTP/2 without TLS, until l fails or the server is
// closed; the latter is no error. It closes l.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(l) }

// Close closes all listeners and connections at once, kills every process, ends every watcher and
// waits until they have ended.
func (s *Server) Close() error {
	err := s.http.Close()
	s.splices.close()
	s.processes.Close()
	s.files.Close()
	return err
}
