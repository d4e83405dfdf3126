package api

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/portproxy"
)

const domain = "box.test"

// portRig is a control plane with a domain, and a sandbox in which a server tells what it sees.
type portRig struct {
	*rig
	sb   string
	port int
}

func newPortRig(t *testing.T) *portRig {
	t.Helper()
	r := newRig(t, Limits{})
	server := New(Options{Store: r.store, Auth: r.auth, Controller: r.ctl, Redis: r.cache, Log: r.logger, Domain: domain})
	r.handler = server.Handler()
	r.server.Config.Handler = r.handler
	guest := httptest.NewServer(http.HandlerFunc(inSandbox))
	t.Cleanup(guest.Close)
	return &portRig{rig: r, sb: r.create().ID, port: guest.Listener.Addr().(*net.TCPAddr).Port}
}

func inSandbox(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ws" {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		kind, data, err := conn.Read(r.Context())
		if err == nil {
			_ = conn.Write(r.Context(), kind, data)
			_ = conn.Close(websocket.StatusNormalClosure, "")
		}
		return
	}
	http.SetCookie(w, &http.Cookie{Name: "guest", Value: "1"})
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s key=%q token=%q cookie=%q body=%q", r.Method, r.RequestURI, r.Host,
		r.Header.Get("X-API-Key"), r.Header.Get("X-Wrenn-Port-Token"), r.Header.Get("Cookie"), b)
}

func (r *portRig) name(port int) string {
	return fmt.Sprintf("%d-%s.%s", port, r.sb, domain)
}

func (r *portRig) path() string { return fmt.Sprintf("/v1/sandboxes/%s/ports/%d/", r.sb, r.port) }

// token makes a token for the port, 0 for any.
func (r *portRig) token(port, seconds int) portTokenAnswer {
	r.t.Helper()
	in := fmt.Sprintf(`{"port":%d,"expires_in_seconds":%d}`, port, seconds)
	if port == 0 {
		in = fmt.Sprintf(`{"expires_in_seconds":%d}`, seconds)
	}
	return decoded[portTokenAnswer](r.t, r.call("POST", "/v1/sandboxes/"+r.sb+"/port-tokens", in), http.StatusCreated)
}

type portTokenAnswer struct {
	Token     string    `json:"token"`
	URL       *string   `json:"url"`
	PathURL   *string   `json:"path_url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// ask makes a request without a key and without the check against openapi.yaml: the answer is the guest's.
func (r *portRig) ask(method, host, path string, headers ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.server.URL+path, strings.NewReader("body"))
	if err != nil {
		r.t.Fatal(err)
	}
	if req.Host = host; host == "" {
		req.Host = req.URL.Host
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, string(b)
}

func (r *portRig) seen(method, uri string) string {
	return fmt.Sprintf(`%s %s localhost:%d key="" token="" cookie="" body="body"`, method, uri, r.port)
}

// Every way to be let in, in both forms, ends at the server, which sees nothing of it.
func TestPortAccess(t *testing.T) {
	r := newPortRig(t)
	token, every := r.token(r.port, 60).Token, r.token(0, 60).Token
	for name, way := range map[string]struct {
		query  string
		header []string
	}{
		"key":           {"", []string{auth.Header, string(r.key)}},
		"token header":  {"", []string{portproxy.HeaderToken, token}},
		"token query":   {"?wrenn_port_token=" + token, nil},
		"token cookie":  {"", []string{"Cookie", "wrenn_port_token=" + token}},
		"any port":      {"", []string{portproxy.HeaderToken, every}},
		"one that fits": {"", []string{"Cookie", "wrenn_port_token=old; wrenn_port_token=" + token}},
	} {
		resp, text := r.ask("POST", r.name(r.port), "/a%2Fb"+way.query, way.header...)
		if text != r.seen("POST", "/a%2Fb") || resp.Header.Get("Set-Cookie") == "" {
			t.Errorf("%s, host form: %d %s", name, resp.StatusCode, text)
		}
		resp, text = r.ask("POST", "", r.path()+"a%2Fb"+way.query, way.header...)
		if text != r.seen("POST", "/a%2Fb") || resp.Header.Get("Set-Cookie") != "" || !strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "sandbox ") {
			t.Errorf("%s, path form: %d %s", name, resp.StatusCode, text)
		}
	}
	if log := r.log.String(); strings.Contains(log, token) {
		t.Error("the token is in the log")
	}
}

func TestPortRefusals(t *testing.T) {
	r := newPortRig(t)
	other := r.create().ID
	token := r.token(r.port, 60).Token
	foreign := r.newKey("others")
	for name, c := range map[string]struct {
		port   int
		header []string
		status int
		code   string
	}{
		"nothing":            {r.port, nil, 401, "unauthenticated"},
		"a foreign key":      {r.port, []string{auth.Header, string(foreign)}, 404, "not_found"},
		"an unknown key":     {r.port, []string{auth.Header, string(auth.NewSecret())}, 401, "unauthenticated"},
		"a key as a token":   {r.port, []string{portproxy.HeaderToken, string(r.key)}, 401, "unauthenticated"},
		"another port":       {r.port + 1, []string{portproxy.HeaderToken, token}, 403, "forbidden"},
		"a changed token":    {r.port, []string{portproxy.HeaderToken, token[:len(token)-4] + "AAAA"}, 401, "unauthenticated"},
		"a terminal ticket":  {r.port, []string{portproxy.HeaderToken, r.ticket(r.sb)}, 401, "unauthenticated"},
		"a port that closed": {1, []string{auth.Header, string(r.key)}, 502, "precondition"},
	} {
		path := fmt.Sprintf("/v1/sandboxes/%s/ports/%d/x", r.sb, c.port)
		for form, ask := range map[string]func() (*http.Response, string){
			"host": func() (*http.Response, string) { return r.ask("GET", r.name(c.port), "/x", c.header...) },
			"path": func() (*http.Response, string) { return r.ask("GET", "", path, c.header...) },
		} {
			resp, text := ask()
			if resp.StatusCode != c.status || !strings.Contains(text, `"code":"`+c.code+`"`) {
				t.Errorf("%s, %s form: %d %s", name, form, resp.StatusCode, text)
			}
		}
	}
	resp, _ := r.ask("GET", fmt.Sprintf("%d-%s.%s", r.port, other, domain), "/", portproxy.HeaderToken, token)
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("the same port of another sandbox: %d", resp.StatusCode)
	}
}

// A browser gets the token as a cookie and never shows it again; what a page then asks for works.
func TestBrowserKeepsTheToken(t *testing.T) {
	r := newPortRig(t)
	made := r.token(r.port, 60)
	u, err := url.Parse(*made.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp, _ := r.ask("GET", u.Host, "//evil.example/?a=1&"+u.RawQuery+"&b=2", "Sec-Fetch-Mode", "navigate", "X-Forwarded-Proto", "https")
	cookie := resp.Header.Get("Set-Cookie")
	for _, part := range []string{"HttpOnly", "SameSite=Lax", "Secure", "Path=/", "wrenn_port_token=" + made.Token} {
		if !strings.Contains(cookie, part) {
			t.Errorf("%q has no %s", cookie, part)
		}
	}
	if to := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || to != "https://"+u.Host+"//evil.example/?a=1&b=2" {
		t.Errorf("%d to %s", resp.StatusCode, to)
	}
	pair, _, _ := strings.Cut(cookie, ";")
	if _, text := r.ask("GET", u.Host, "/page", "Cookie", pair, "Sec-Fetch-Mode", "navigate"); text != r.seen("GET", "/page") {
		t.Error(text)
	}
}

func TestPortErrorsForPeople(t *testing.T) {
	r := newPortRig(t)
	resp, text := r.ask("GET", r.name(r.port), "/", "Accept", "text/html,*/*;q=0.8")
	if resp.StatusCode != 401 || !strings.Contains(text, "<h1>the port is private</h1>") || !strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %s %s", resp.StatusCode, text, resp.Header)
	}
	resp, text = r.ask("GET", "", fmt.Sprintf("/v1/sandboxes/%s/ports/1/", r.sb), "Accept", "text/html", auth.Header, string(r.key))
	if resp.StatusCode != 502 || !strings.Contains(text, "<h1>port 1 is not open in the sandbox</h1>") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	// Nothing of the API is at the names of ports, and what is no such name is nothing.
	for _, host := range []string{"www." + domain, "1-2-" + r.sb + "." + domain, "x." + r.name(r.port)} {
		if resp, text := r.ask("GET", host, "/healthz", auth.Header, string(r.key)); resp.StatusCode != 404 {
			t.Errorf("%s: %d %s", host, resp.StatusCode, text)
		}
	}
	if _, text := r.ask("GET", r.name(r.port), "/healthz", auth.Header, string(r.key)); text != r.seen("GET", "/healthz") {
		t.Errorf("%s", text)
	}
	if resp, _ := r.ask("GET", domain, "/healthz"); resp.StatusCode != 200 {
		t.Errorf("the domain itself: %d", resp.StatusCode)
	}
}

func TestPortWebSocket(t *testing.T) {
	r := newPortRig(t)
	made := r.token(r.port, 60)
	conn, _, err := websocket.Dial(t.Context(), r.server.URL+r.path()+"ws?wrenn_port_token="+made.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(t.Context()); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPortTokens(t *testing.T) {
	r := newPortRig(t)
	path := "/v1/sandboxes/" + r.sb + "/port-tokens"
	made := decoded[portTokenAnswer](t, r.call("POST", path, `{"port":8080}`), http.StatusCreated)
	if left := time.Until(made.ExpiresAt); left < 59*time.Minute || left > time.Hour {
		t.Errorf("it expires in %s", left)
	}
	host := strings.TrimPrefix(r.server.URL, "http://")
	_, port, _ := net.SplitHostPort(host)
	if *made.URL != "http://"+r.name(8080)+":"+port+"/?wrenn_port_token="+made.Token ||
		*made.PathURL != r.server.URL+"/v1/sandboxes/"+r.sb+"/ports/8080/?wrenn_port_token="+made.Token {
		t.Errorf("%s, %s", *made.URL, *made.PathURL)
	}
	if every := r.token(0, 1); every.URL != nil || every.PathURL != nil {
		t.Errorf("%+v", every)
	}
	for _, in := range []string{`{"port":0}`, `{"port":65536}`, `{"port":"80"}`, `{"expires_in_seconds":0}`, `{"expires_in_seconds":604801}`, `{"x":1}`} {
		if a := r.call("POST", path, in); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d", in, a.status)
		}
	}
	r.call("DELETE", "/v1/sandboxes/"+r.sb, "")
	if a := r.call("POST", path, `{"port":8080}`); a.status != http.StatusConflict {
		t.Errorf("a token for what has ended: %d", a.status)
	}
}

// The end of a sandbox ends what goes through its ports.
func TestPortsEndWithTheSandbox(t *testing.T) {
	r := newPortRig(t)
	token := r.token(r.port, 60).Token
	conn, _, err := websocket.Dial(t.Context(), r.server.URL+r.path()+"ws?wrenn_port_token="+token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	r.call("DELETE", "/v1/sandboxes/"+r.sb, "")
	if _, _, err := conn.Read(t.Context()); err == nil {
		t.Error("the connection goes on")
	}
	resp, text := r.ask("GET", "", r.path(), portproxy.HeaderToken, token)
	if resp.StatusCode != http.StatusConflict || !strings.Contains(text, "stopped") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}
