package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Classes of routes that have limits of their own.
const (
	ClassRead   = "read"   // what is looked up
	ClassWrite  = "write"  // what changes something
	ClassCreate = "create" // what has VMs run, or keeps them: create, fork, resume, snapshot
	ClassGuest  = "guest"  // what goes on inside a sandbox: programs, files, contexts, connections
)

// guestRoutes are the parts of a sandbox that its guest answers for.
var guestRoutes = []string{"exec", "files", "watch", "processes", "contexts", "tcp", "port-tokens", "terminal-tickets"}

// classOf returns the class of a request below /v1.
func classOf(method, path string) string {
	parts := strings.Split(strings.TrimPrefix(path, "/v1/"), "/")
	ofSandbox := parts[0] == "sandboxes" && len(parts) > 2
	switch {
	case ofSandbox && slices.Contains(guestRoutes, parts[2]):
		return ClassGuest
	case method == http.MethodGet || method == http.MethodHead:
		return ClassRead
	case method == http.MethodPost && (path == "/v1/sandboxes" || ofSandbox && slices.Contains([]string{"fork", "resume", "snapshots"}, parts[2])):
		return ClassCreate
	}
	return ClassWrite
}

// limit refuses what comes too often, and tells in the headers of draft-ietf-httpapi-ratelimit-headers-10 how often it may come.
func (s *Server) limit(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		class := classOf(r.Method, r.URL.Path)
		rate, limited := s.Limiter.Rate(class)
		if !limited {
			next.ServeHTTP(w, r)
			return nil
		}
		d := s.Limiter.Allow(r.Context(), by(r).Key, class)
		h := w.Header()
		h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", class, rate.Burst, auth.WholeSeconds(rate.Window())))
		h.Set("RateLimit", fmt.Sprintf("%q;r=%d;t=%d", class, d.Remaining, auth.WholeSeconds(d.Reset)))
		if !d.Allowed {
			s.Meter.refused.Add(1, class)
			h.Set("Retry-After", strconv.Itoa(auth.WholeSeconds(d.Retry)))
			return models.Errorf(models.Exhausted, "this key sends more requests than it may of the class %q", class).
				WithHint("%d at once and %v a second are allowed; wait as long as Retry-After says", rate.Burst, rate.PerSecond)
		}
		next.ServeHTTP(w, r)
		return nil
	})
}
