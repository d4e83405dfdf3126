package api

import (
	"context"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/auth/grant"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/portproxy"
)

// portMethods are passed on to a port in the path form; in the host form all are.
var portMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// handlePort is handle for what a browser may show to a person.
func (s *Server) handlePort(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		aboutOf(r.Context()).port = true
		if err := h(w, r); err != nil {
			s.writePortError(w, r, err)
		}
	}
}

// portsByHost takes what is below the domain. Nothing of the API is served there: pages of a guest are at home at such names.
func (s *Server) portsByHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, below, err := portproxy.ParseHost(r.Host, s.Domain)
		if !below {
			next.ServeHTTP(w, r)
			return
		}
		s.handlePort(func(w http.ResponseWriter, r *http.Request) error {
			if err != nil {
				return err
			}
			return s.port(w, r, name, "")
		})(w, r)
	})
}

func (s *Server) portByPath(w http.ResponseWriter, r *http.Request) error {
	sb, err := sandboxID(r)
	if err != nil {
		return err
	}
	port, err := portproxy.ParsePort(chi.URLParam(r, "port"))
	if err != nil {
		return err
	}
	name := portproxy.Name{Sandbox: sb, Port: port}
	if r.URL.Path == portPath(name) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		u := url.URL{Path: portPath(name) + "/", RawQuery: r.URL.RawQuery} // where links that are relative lead below it
		http.Redirect(w, r, u.String(), http.StatusPermanentRedirect)
		return nil
	}
	return s.port(w, r, name, portPath(name))
}

func portPath(n portproxy.Name) string {
	return "/v1/sandboxes/" + string(n.Sandbox) + "/ports/" + strconv.Itoa(n.Port)
}

// port passes a request on if it may reach the port. An empty prefix is the host form.
func (s *Server) port(w http.ResponseWriter, r *http.Request, name portproxy.Name, prefix string) error {
	account, token, err := s.portAccess(r, name)
	if err != nil {
		return err
	}
	if prefix == "" && token.fromQuery && navigates(r) {
		s.keepToken(w, r, token)
		return nil
	}
	guest, used, err := s.Controller.Connection(r.Context(), account, name.Sandbox)
	if err != nil {
		return err
	}
	s.ports.Serve(w, r, portproxy.Target{
		Name: name, Prefix: prefix,
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := guest.DialPort(ctx, name.Port)
			if err != nil {
				return nil, err
			}
			return usedConn{conn, used}, nil
		},
	})
	return nil
}

// portToken is a token that opens the port, as it came.
type portToken struct {
	text      string
	fromQuery bool
	expires   time.Time
}

// portAccess returns whose sandbox it is, if the request has the owner's key, or a token for the port.
func (s *Server) portAccess(r *http.Request, name portproxy.Name) (id.Account, portToken, error) {
	if r.Header.Get(auth.Header) != "" {
		p, err := s.guestKey(r)
		return p.Account, portToken{}, err
	}
	err := error(models.Errorf(models.Unauthenticated, "the port is private").
		WithHint("POST /v1/sandboxes/%s/port-tokens makes a token", name.Sandbox))
	tokens := portproxy.Tokens(r)
	if len(tokens) == 0 {
		return "", portToken{}, err
	}
	signer, failure := s.grants.get(r.Context())
	if failure != nil {
		return "", portToken{}, failure
	}
	for _, text := range tokens {
		var g grant.Grant
		if g, err = signer.Check(grant.Port, text, time.Now()); err != nil {
			continue
		}
		if g.Sandbox == name.Sandbox && (g.Port == 0 || g.Port == name.Port) {
			inQuery := len(portproxy.QueryTokens(r)) > 0
			return g.Account, portToken{text: text, fromQuery: inQuery, expires: g.Expires}, nil
		}
		err = models.Errorf(models.Forbidden, "the token is for another port")
	}
	return "", portToken{}, err
}

// navigates tells whether a browser asks for a page to show, for which it can be sent elsewhere.
func navigates(r *http.Request) bool {
	if r.Method != http.MethodGet || r.Header.Get("Upgrade") != "" {
		return false
	}
	mode := r.Header.Get("Sec-Fetch-Mode")
	return mode == "navigate" || mode == "" && accepts(r, "text/html")
}

// keepToken makes a token in a URL a cookie, so that what the page loads has it too, and the URL, which ends up in the
// browser's history and in Referer headers, has not.
func (s *Server) keepToken(w http.ResponseWriter, r *http.Request, token portToken) {
	http.SetCookie(w, &http.Cookie{
		Name: portproxy.CookieToken, Value: token.text, Path: "/", Expires: token.expires,
		// Lax, not Strict: a link from elsewhere to the port works. Other sites' requests in the background have it not.
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: portproxy.Scheme(r) == "https",
	})
	w.Header().Set("Cache-Control", noStore)
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Location", portproxy.WithoutToken(r)) // not http.Redirect, which would clean the path
	w.WriteHeader(http.StatusSeeOther)
}

// portFailed is what the proxy calls when a server in a sandbox gave no answer.
func (s *Server) portFailed(w http.ResponseWriter, r *http.Request, err error) {
	s.writePortError(w, r, withStatus(http.StatusBadGateway, models.AsError(err)))
}

// writePortError answers people with a page, and programs as ever.
func (s *Server) writePortError(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Cache-Control", noStore)
	if !navigates(r) || !accepts(r, "text/html") {
		s.writeError(w, r, err)
		return
	}
	aboutOf(r.Context()).cause = err
	e := body(r, err)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.WriteHeader(status(err))
	_, _ = fmt.Fprintf(w, portErrorPage, html.EscapeString(e.Message), html.EscapeString(e.Hint), html.EscapeString(e.RequestID))
}

const portErrorPage = `<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Wrenn</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em;color-scheme:light dark}small{opacity:.6}</style>
<h1>%s</h1>
<p>%s</p>
<small>%s</small>
`

const (
	defaultPortTokenSeconds = 3600
	maxPortTokenSeconds     = 7 * 86400
)

// portTokenRequest is the schema CreatePortToken.
type portTokenRequest struct {
	Port    *int `json:"port"`
	Expires *int `json:"expires_in_seconds"`
}

// portTokenView is the schema PortToken.
type portTokenView struct {
	Token     string  `json:"token"`
	URL       *string `json:"url"`
	PathURL   *string `json:"path_url"`
	ExpiresAt apiTime `json:"expires_at"`
}

func (s *Server) createPortToken(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	var in portTokenRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	g := grant.Grant{Kind: grant.Port, Sandbox: sb, Account: by(r).Account}
	lifetime := defaultPortTokenSeconds
	if in.Expires != nil {
		lifetime = *in.Expires
	}
	if lifetime < 1 || lifetime > maxPortTokenSeconds {
		return models.Errorf(models.Invalid, "expires_in_seconds must be between 1 and %d", maxPortTokenSeconds)
	}
	if in.Port != nil {
		if g.Port, err = portproxy.ParsePort(strconv.Itoa(*in.Port)); err != nil {
			return err
		}
	}
	text, expires, err := s.sign(r, g, time.Duration(lifetime)*time.Second)
	if err != nil {
		return err
	}
	view := portTokenView{Token: text, ExpiresAt: apiTime(expires)}
	if g.Port != 0 {
		name := portproxy.Name{Sandbox: sb, Port: g.Port}
		view.URL, view.PathURL = s.portURL(r, name, text), tokenURL(r, r.Host, portPath(name), text)
	}
	w.Header().Set("Cache-Control", noStore)
	s.writeJSON(w, http.StatusCreated, view)
	return nil
}

// sign makes a grant for a sandbox that has not ended.
func (s *Server) sign(r *http.Request, g grant.Grant, lifetime time.Duration) (string, time.Time, error) {
	row, err := s.Store.Sandbox(r.Context(), g.Account, g.Sandbox)
	if err != nil {
		return "", time.Time{}, err
	}
	if row.State == models.Stopped || row.State == models.Stopping {
		return "", time.Time{}, models.Errorf(models.Precondition, "the sandbox %s is in state %s", g.Sandbox, row.State)
	}
	signer, err := s.grants.get(r.Context())
	if err != nil {
		return "", time.Time{}, err
	}
	g.Expires = time.Now().Add(lifetime).Truncate(time.Second)
	return signer.Sign(g), g.Expires, nil
}

// portURL is a port's address in the host form, nil without a domain. The control plane is taken to be reached there on the
// port on which it is reached here.
func (s *Server) portURL(r *http.Request, name portproxy.Name, token string) *string {
	if s.Domain == "" {
		return nil
	}
	host := name.Host(s.Domain)
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		host = net.JoinHostPort(host, port)
	}
	return tokenURL(r, host, "", token)
}

func tokenURL(r *http.Request, host, path, token string) *string {
	u := url.URL{Scheme: portproxy.Scheme(r), Host: host, Path: path + "/", RawQuery: url.Values{portproxy.QueryToken: {token}}.Encode()}
	text := u.String()
	return &text
}
