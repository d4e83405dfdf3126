package api

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
)

// scopes says for every route below /v1 what a key must have to use it. What is not in it needs Admin.
var scopes = map[string]auth.Scope{
	"GET /v1/templates": auth.ReadSandboxes,
	"GET /v1/pool":      auth.ReadSandboxes,
	"GET /v1/usage":     auth.ReadSandboxes,
	"GET /v1/events":    auth.ReadSandboxes,

	"POST /v1/sandboxes":                      auth.WriteSandboxes,
	"GET /v1/sandboxes":                       auth.ReadSandboxes,
	"GET /v1/sandboxes/{id}":                  auth.ReadSandboxes,
	"PATCH /v1/sandboxes/{id}":                auth.WriteSandboxes,
	"DELETE /v1/sandboxes/{id}":               auth.WriteSandboxes,
	"POST /v1/sandboxes/{id}/pause":           auth.WriteSandboxes,
	"POST /v1/sandboxes/{id}/resume":          auth.WriteSandboxes,
	"POST /v1/sandboxes/{id}/hibernate":       auth.WriteSandboxes,
	"POST /v1/sandboxes/{id}/fork":            auth.WriteSandboxes,
	"POST /v1/sandboxes/{id}/snapshots":       auth.WriteSandboxes,
	"GET /v1/snapshots":                       auth.ReadSandboxes,
	"GET /v1/snapshots/{id}":                  auth.ReadSandboxes,
	"DELETE /v1/snapshots/{id}":               auth.WriteSandboxes,
	"GET /v1/sandboxes/{id}/network":          auth.ReadSandboxes,
	"GET /v1/sandboxes/{id}/network/refusals": auth.ReadSandboxes,
	"GET /v1/sandboxes/{id}/logs":             auth.ReadSandboxes,
	"GET /v1/sandboxes/{id}/events":           auth.ReadSandboxes,

	"POST /v1/sandboxes/{id}/exec":                         auth.Guest,
	"GET /v1/sandboxes/{id}/files":                         auth.Guest,
	"PUT /v1/sandboxes/{id}/files":                         auth.Guest,
	"DELETE /v1/sandboxes/{id}/files":                      auth.Guest,
	"GET /v1/sandboxes/{id}/files/*":                       auth.Guest,
	"PUT /v1/sandboxes/{id}/files/*":                       auth.Guest,
	"DELETE /v1/sandboxes/{id}/files/*":                    auth.Guest,
	"POST /v1/sandboxes/{id}/files/mkdir":                  auth.Guest,
	"POST /v1/sandboxes/{id}/files/move":                   auth.Guest,
	"POST /v1/sandboxes/{id}/files/chmod":                  auth.Guest,
	"GET /v1/sandboxes/{id}/watch":                         auth.Guest,
	"POST /v1/sandboxes/{id}/processes":                    auth.Guest,
	"GET /v1/sandboxes/{id}/processes":                     auth.Guest,
	"GET /v1/sandboxes/{id}/processes/{pid}":               auth.Guest,
	"DELETE /v1/sandboxes/{id}/processes/{pid}":            auth.Guest,
	"GET /v1/sandboxes/{id}/processes/{pid}/output":        auth.Guest,
	"POST /v1/sandboxes/{id}/processes/{pid}/stdin":        auth.Guest,
	"POST /v1/sandboxes/{id}/processes/{pid}/signal":       auth.Guest,
	"POST /v1/sandboxes/{id}/processes/{pid}/resize":       auth.Guest,
	"GET /v1/sandboxes/{id}/processes/{pid}/wait":          auth.Guest,
	"POST /v1/sandboxes/{id}/contexts":                     auth.Guest,
	"GET /v1/sandboxes/{id}/contexts":                      auth.Guest,
	"GET /v1/sandboxes/{id}/contexts/{context}":            auth.Guest,
	"DELETE /v1/sandboxes/{id}/contexts/{context}":         auth.Guest,
	"POST /v1/sandboxes/{id}/contexts/{context}/execute":   auth.Guest,
	"POST /v1/sandboxes/{id}/contexts/{context}/interrupt": auth.Guest,
	"GET /v1/sandboxes/{id}/tcp/{port}":                    auth.Guest,
	"POST /v1/sandboxes/{id}/port-tokens":                  auth.Guest,
	"POST /v1/sandboxes/{id}/terminal-tickets":             auth.Guest,

	"GET /v1/webhooks":                                   auth.Webhooks,
	"POST /v1/webhooks":                                  auth.Webhooks,
	"GET /v1/webhooks/{id}":                              auth.Webhooks,
	"PATCH /v1/webhooks/{id}":                            auth.Webhooks,
	"DELETE /v1/webhooks/{id}":                           auth.Webhooks,
	"POST /v1/webhooks/{id}/rotate":                      auth.Webhooks,
	"POST /v1/webhooks/{id}/ping":                        auth.Webhooks,
	"GET /v1/webhooks/{id}/deliveries":                   auth.Webhooks,
	"POST /v1/webhooks/{id}/deliveries/{delivery}/retry": auth.Webhooks,

	"GET /v1/audit": auth.ReadAudit,

	"GET /v1/api-keys":              auth.Keys,
	"POST /v1/api-keys":             auth.Keys,
	"DELETE /v1/api-keys/{id}":      auth.Keys,
	"POST /v1/api-keys/{id}/rotate": auth.Keys,

	"GET /v1/hosts":                auth.ReadHosts,
	"GET /v1/hosts/audit":          auth.ReadHosts,
	"GET /v1/hosts/tokens":         auth.ReadHosts,
	"GET /v1/hosts/{id}":           auth.ReadHosts,
	"DELETE /v1/hosts/{id}":        auth.Hosts,
	"POST /v1/hosts/{id}/drain":    auth.Hosts,
	"POST /v1/hosts/{id}/undrain":  auth.Hosts,
	"POST /v1/hosts/tokens":        auth.Hosts,
	"DELETE /v1/hosts/tokens/{id}": auth.Hosts,
}

// permit refuses a request whose key does not have the scope of its route. What is no route is for whoever answers that there is none; what is of no account is none to a key that has
// nothing to do with that, like what is of another one.
func permit(r *http.Request, p auth.Principal) error {
	found := chi.NewRouteContext()
	if !chi.RouteContext(r.Context()).Routes.Match(found, r.Method, routePath(r)) {
		return nil
	}
	scope, known := scopes[r.Method+" "+found.RoutePattern()]
	if !known {
		scope = auth.Admin
	}
	if scope.OfOperators() && !p.Operates() {
		return nothingHere(r)
	}
	return p.Require(scope)
}

// routePath is what chi routes by.
func routePath(r *http.Request) string {
	if r.URL.RawPath != "" {
		return r.URL.RawPath
	}
	return r.URL.Path
}

// guestKey returns whose API key a request has, if that may use what is inside of sandboxes. It is for routes that know other ways than a key, too.
func (s *Server) guestKey(r *http.Request) (auth.Principal, error) {
	p, err := s.principal(r)
	if err != nil {
		return p, err
	}
	return p, p.Require(auth.Guest)
}
