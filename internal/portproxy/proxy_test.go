package portproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const prefix = "/v1/sandboxes/sb-0123abcd/ports/8080"

// rig is a proxy before a server that plays the one in a sandbox.
type rig struct {
	*httptest.Server
	guest *httptest.Server
	dial  func(context.Context) (net.Conn, error)
}

func newRig(t *testing.T, inPath bool, guest http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{guest: httptest.NewServer(guest)}
	r.dial = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", r.guest.Listener.Addr().String())
	}
	p := New(slog.New(slog.DiscardHandler), func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, fmt.Sprintf("%s: %s", models.CodeOf(err), models.AsError(err).Message), http.StatusBadGateway)
	})
	to := Target{Name: Name{Sandbox: "sb-0123abcd", Port: 8080}, Dial: func(ctx context.Context) (net.Conn, error) { return r.dial(ctx) }}
	if inPath {
		to.Prefix = prefix
	}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { p.Serve(w, req, to) }))
	t.Cleanup(func() {
		r.Close()
		r.guest.Close()
	})
	return r
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// ask makes a request with these headers, as pairs, and follows no redirect.
func (r *rig) ask(t *testing.T, method, path string, body io.Reader, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), method, r.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the guest sees of a request: everything but what is the platform's.
func TestRequest(t *testing.T) {
	var got *http.Request
	see := func(_ http.ResponseWriter, r *http.Request) { got = r }
	host, path := newRig(t, false, see), newRig(t, true, see)
	basic := "Basic d3JuXzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmOg==" // wrn_0123456789abcdef0123456789abcdef:
	host.ask(t, "POST", "/a%2Fb//c?x=1&wrenn_port_token=t&y=%20&wrenn%5Fport_token=u&=", strings.NewReader("body"),
		"Host", "8080-sb-0123abcd.example.com", "X-API-Key", "wrn_secret", "X-Wrenn-Port-Token", "t", "Authorization", basic,
		"Cookie", `a="1"; wrenn_port_token=t; b=2`, "Cookie", "wrenn_port_token=u", "Referer", "http://x/?wrenn_port_token=t",
		"Origin", "https://8080-sb-0123abcd.example.com", "X-Forwarded-Proto", "https", "X-Forwarded-For", "198.51.100.7",
		"X-Forwarded-Host", "spoofed", "X-Forwarded-Prefix", "/spoofed", "Connection", "X-Hop", "X-Hop", "1", "X-Own", "kept")
	want := http.Header{
		"X-Own": {"kept"}, "Cookie": {`a="1"; b=2`}, "Origin": {"http://localhost:8080"}, "X-Forwarded-Proto": {"https"},
		"X-Forwarded-For": {"198.51.100.7, 127.0.0.1"},
		"X-Api-Key":       nil, "X-Wrenn-Port-Token": nil, "Authorization": nil, "Referer": nil, "X-Hop": nil,
		"X-Forwarded-Host": nil, "X-Forwarded-Prefix": nil,
	}
	check := func(uri string) {
		t.Helper()
		if got.RequestURI != uri || got.Host != "localhost:8080" {
			t.Errorf("%s at %s, want %s", got.RequestURI, got.Host, uri)
		}
		for name, values := range want {
			if fmt.Sprint(got.Header[name]) != fmt.Sprint(values) {
				t.Errorf("%s: %q, want %q", name, got.Header[name], values)
			}
		}
	}
	check("/a%2Fb//c?x=1&y=%20&=")
	for _, c := range []struct{ sent, seen string }{
		{prefix, "/"}, {prefix + "/", "/"}, {prefix + "/a%2Fb//c?x=1", "/a%2Fb//c?x=1"}, {"/v1/sandboxes/sb-0123abcd/ports/%38080/x", "/x"},
	} {
		path.ask(t, "GET", c.sent, nil, "Origin", "https://elsewhere.example", "Authorization", "Bearer of-the-app")
		want = http.Header{
			"Origin": {"https://elsewhere.example"}, "Authorization": {"Bearer of-the-app"}, "X-Forwarded-For": {"127.0.0.1"},
			"X-Forwarded-Prefix": {prefix}, "X-Forwarded-Host": {strings.TrimPrefix(path.URL, "http://")}, "X-Forwarded-Proto": {"http"},
		}
		check(c.seen)
	}
}

func TestResponse(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Set-Cookie"] = []string{"a=1; Path=/; Domain=example.com; HttpOnly", "b=2"}
		h.Set("Content-Security-Policy", "default-src 'self'")
		h.Set("Service-Worker-Allowed", "/")
		h.Set("Strict-Transport-Security", "max-age=1")
		h.Set("Location", r.Header.Get("X-Location"))
		w.WriteHeader(http.StatusFound)
	}
	host, path := newRig(t, false, answer), newRig(t, true, answer)
	resp := host.ask(t, "GET", "/", nil)
	if got := fmt.Sprintf("%q", resp.Header["Set-Cookie"]); got != `["a=1; Path=/; HttpOnly" "b=2"]` {
		t.Error(got)
	}
	if resp.Header.Get("Service-Worker-Allowed") == "" || len(resp.Header["Content-Security-Policy"]) != 1 {
		t.Errorf("%v", resp.Header)
	}
	resp = path.ask(t, "GET", prefix+"/", nil)
	for _, name := range []string{"Set-Cookie", "Service-Worker-Allowed", "Strict-Transport-Security"} {
		if resp.Header[name] != nil {
			t.Errorf("%s: %q", name, resp.Header[name])
		}
	}
	if got := fmt.Sprintf("%q", resp.Header["Content-Security-Policy"]); got != `["default-src 'self'" "`+sandboxed+`"]` {
		t.Error(got)
	}
	for _, c := range []struct{ said, host, path string }{
		{"http://localhost:8080/login?x=1#y", host.URL + "/login?x=1#y", path.URL + prefix + "/login?x=1#y"},
		{"http://127.0.0.1:8080/a%2Fb", host.URL + "/a%2Fb", path.URL + prefix + "/a%2Fb"},
		{"/login", "/login", prefix + "/login"},
		{prefix + "/login", prefix + "/login", prefix + "/login"},
		{"login", "login", "login"},
		{"http://localhost:9090/", "http://localhost:9090/", "http://localhost:9090/"},
		{"https://example.com/", "https://example.com/", "https://example.com/"},
		{"mailto:a@b", "mailto:a@b", "mailto:a@b"},
	} {
		if got := host.ask(t, "GET", "/", nil, "X-Location", c.said).Header.Get("Location"); got != c.host {
			t.Errorf("%s becomes %s, want %s", c.said, got, c.host)
		}
		if got := path.ask(t, "GET", prefix+"/x", nil, "X-Location", c.said).Header.Get("Location"); got != c.path {
			t.Errorf("%s becomes %s, want %s", c.said, got, c.path)
		}
	}
}

// An event comes through when it is sent, not when the stream ends.
func TestEventsAreNotHeldBack(t *testing.T) {
	next := make(chan struct{})
	r := newRig(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
			}
		}
	})
	lines := bufio.NewScanner(r.ask(t, "GET", prefix+"/events", nil).Body)
	for i := range 3 {
		if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) || !lines.Scan() {
			t.Fatalf("%d: %q, %v", i, lines.Text(), lines.Err())
		}
		next <- struct{}{}
	}
}

func TestBodiesAndTrailers(t *testing.T) {
	r := newRig(t, false, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		n, err := io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(n, err, r.Trailer.Get("X-Mine")))
	})
	const size = 20 << 20
	req, err := http.NewRequestWithContext(within(t), "POST", r.URL, io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Mine": {"sent"}}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if n != size || err != nil || resp.Trailer.Get("X-Sum") != fmt.Sprint(size, nil, "sent") {
		t.Errorf("%d bytes, %v, trailer %q", n, err, resp.Trailer)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWebSocket(t *testing.T) {
	r := newRig(t, true, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}}) // it holds Origin against Host
		if err != nil {
			return
		}
		for {
			kind, data, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if string(data) == "end" {
				conn.Close(4001, "as asked")
				return
			}
			_ = conn.Write(r.Context(), kind, data)
		}
	})
	conn, resp, err := websocket.Dial(within(t), r.URL+prefix+"/ws", &websocket.DialOptions{
		Subprotocols: []string{"echo"}, HTTPHeader: http.Header{"Origin": {r.URL}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if conn.Subprotocol() != "echo" || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("%q, %d", conn.Subprotocol(), resp.StatusCode)
	}
	large := strings.Repeat("x", 30<<10)
	for _, message := range []string{"a", "", large} {
		if err := conn.Write(within(t), websocket.MessageBinary, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(within(t)); string(got) != message || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if err := conn.Write(within(t), websocket.MessageText, []byte("end")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(within(t)); websocket.CloseStatus(err) != 4001 {
		t.Errorf("ended with %v", err)
	}
}

// Each direction of an upgraded connection ends apart.
func TestUpgradeHalves(t *testing.T) {
	r := newRig(t, false, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		all, _ := io.ReadAll(rw)
		_, _ = conn.Write(all)
	})
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	_, _ = io.WriteString(conn, "question")
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(br); string(got) != "question" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A client that goes away ends what the guest does for it, whatever it is.
func TestClientAbort(t *testing.T) {
	gone := make(chan error, 1)
	r := newRig(t, false, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			gone <- nil
		case <-time.After(time.Minute):
			gone <- errors.New("the guest does not see that the client has gone")
		}
	})
	ctx, cancel := context.WithCancel(within(t))
	req, err := http.NewRequestWithContext(ctx, "GET", r.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	if err := <-gone; err != nil {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	r := newRig(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "12345")
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	if resp := r.ask(t, "GET", "/", nil); resp.StatusCode != 502 || !strings.HasPrefix(text(t, resp), "unavailable: the server on port 8080") {
		t.Errorf("status %d", resp.StatusCode)
	}
	resp := r.ask(t, "GET", "/half", nil)
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%q passes for the whole", b)
	}
	r.dial = func(context.Context) (net.Conn, error) {
		return nil, models.Errorf(models.Precondition, "port 8080 is not open in the sandbox")
	}
	if got := text(t, r.ask(t, "GET", "/", nil)); got != "precondition: port 8080 is not open in the sandbox\n" {
		t.Error(got)
	}
}

// Endless headers from the guest end.
func TestHostileHeaders(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
				}
				for err == nil {
					_, err = io.WriteString(conn, "X-Header: "+strings.Repeat("x", 1000)+"\r\n")
				}
			}()
		}
	}()
	r := newRig(t, false, nil)
	r.dial = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	if resp := r.ask(t, "GET", "/", nil); resp.StatusCode != 502 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestConnectionAfterRequests: a client's connection is used again after requests without a body and with one that was read, and
// closed after one that was not: what follows on it is no request.
func TestConnectionAfterRequests(t *testing.T) {
	asked := make(chan string, 10)
	r := newRig(t, false, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		if r.URL.Path != "/unread" {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack() // package http would wait for the body
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		_ = conn.Close()
	})
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	read := bufio.NewReader(conn)
	for _, request := range []string{
		"GET /first HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"GET /again HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(read, nil)
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%q: %v, %v", request, resp, err)
		}
		if unread := strings.Contains(request, "/unread"); resp.Close != unread {
			t.Errorf("%q: the answer says that the connection is closed: %v", request, resp.Close)
		}
		_ = resp.Body.Close()
	}
	_, _ = io.WriteString(conn, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n") // the connection may be closed already
	if rest, err := io.ReadAll(read); len(rest) > 0 {
		t.Errorf("after a body that was not read to its end: %q, %v", rest, err)
	}
	close(asked)
	var paths []string
	for path := range asked {
		paths = append(paths, path)
	}
	if got := strings.Join(paths, " "); got != "/first /read /again /unread" {
		t.Errorf("the server was asked for %s", got)
	}
}

// TestInterimAnswers: those of the guest (1xx) stay behind. They would come without what the platform sets and
// confines, and the server forgets the platform's own headers with each.
func TestInterimAnswers(t *testing.T) {
	r := newRig(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		w.WriteHeader(http.StatusTeapot)
	})
	platform := r.Config.Handler
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Request-Id", "req-1")
		platform.ServeHTTP(w, req)
	})
	conn, err := (&net.Dialer{}).DialContext(within(t), "tcp", r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", prefix); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 418 ") || !strings.Contains(string(answer), "X-Request-Id: req-1\r\n") || strings.Contains(string(answer), "Set-Cookie") {
		t.Errorf("the client got %q, %v", answer, err)
	}
}

// FuzzResponse: whatever a guest answers, it sets no cookie beyond its own host, none at all in the path form, and its location does
// not leave the port's path by way of its own names.
func FuzzResponse(f *testing.F) {
	f.Add("http://localhost:8080/a?b=c", "a=b; Domain=example.com; Path=/")
	f.Add("//localhost:8080/../..", "a=b;\tdomain = x; DOMAIN=y")
	f.Add("/%2e%2e/x", "a")
	f.Fuzz(func(t *testing.T, location, cookie string) {
		for _, to := range []Target{{Name: Name{Sandbox: "sb-0123abcd", Port: 8080}}, {Name: Name{Sandbox: "sb-0123abcd", Port: 8080}, Prefix: prefix}} {
			r := httptest.NewRequest(http.MethodGet, "http://wrenn.example/", nil)
			resp := &http.Response{Header: http.Header{"Location": {location}, "Set-Cookie": {cookie}, "Clear-Site-Data": {"*"}}}
			to.response(r, resp)
			if parsed, err := http.ParseSetCookie(resp.Header.Get("Set-Cookie")); err == nil && parsed.Domain != "" {
				t.Errorf("%q became a cookie of %s", cookie, parsed.Domain)
			}
			if to.Prefix == "" {
				continue
			}
			if len(resp.Header["Set-Cookie"])+len(resp.Header["Clear-Site-Data"]) > 0 || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "sandbox") {
				t.Errorf("the path form has %v", resp.Header)
			}
			if u, err := url.Parse(location); err == nil && u.Host == "" && u.Opaque == "" && u.Scheme == "" && strings.HasPrefix(u.Path, "/") {
				if led, err := url.Parse(resp.Header.Get("Location")); err != nil || led.Path != prefix && !strings.HasPrefix(led.Path, prefix+"/") {
					t.Errorf("%q leads to %q", location, resp.Header.Get("Location"))
				}
			}
		}
	})
}
