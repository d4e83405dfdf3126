// Package portproxy passes HTTP on to servers inside sandboxes: requests and answers of any size as they come,
// WebSockets and other upgrades, server-sent events, trailers, and the end of either side: of an upgraded connection each
// direction ends apart, where what Dial returns can (CloseWrite).
//
// A port has two addresses. In the host form, {port}-{sandbox}.{domain}, a sandbox's port has an origin of its own,
// and pages, cookies and service workers are at home there. In the path form, below a path of the API, whatever the
// guest sends is content of the API's origin, and is kept from acting as such (see confine).
//
// What the server sees:
//
//   - Host is localhost:{port}. Servers made for development refuse names that they do not know, as a defence against
//     DNS rebinding: Vite and webpack-dev-server (allowedHosts), Jupyter (allow_remote_access), Rails, Django. Who may come
//     in was decided before the request got here.
//   - Origin, where it is the address of the port itself, is http://localhost:{port}: Jupyter, Django and Next.js hold it
//     against Host. Any other origin is passed on as it is, so that a server can refuse it.
//   - X-Forwarded-For, -Proto and -Prefix tell where the request was sent to; X-Forwarded-Host too, except beside a
//     changed Origin, which Next.js would hold against it.
//   - The credentials of the platform are not there.
//
// Interim answers (1xx) of the guest but for an upgrade stay behind.
//
// Location headers that lead to localhost:{port} are led back.
package portproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	maxHeader = 256 << 10 // of an answer
	// idleTimeout is below that of Node's servers (5 s), which close a connection without regard to a request under way.
	idleTimeout = 4 * time.Second
	maxIdle     = 1024
	// maxIdlePerPort is what a browser opens at once.
	maxIdlePerPort = 6
)

// Target is where a request goes.
type Target struct {
	Name
	Prefix string // in the path form the path that the port's "/" has; empty in the host form
	// Dial connects to the port.
	Dial func(context.Context) (net.Conn, error)
}

// Proxy passes requests on. It keeps connections and uses them again.
type Proxy struct {
	transport *http.Transport
	log       *slog.Logger
	fail      func(http.ResponseWriter, *http.Request, error)
}

// New returns a proxy, which calls fail for a request that got no answer, with a coded error and the status 502
// in mind.
func New(log *slog.Logger, fail func(http.ResponseWriter, *http.Request, error)) *Proxy {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	return &Proxy{log: log, fail: fail, transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(targetKey{}).(Target).Dial(ctx) // the address, which keeps connections apart, is made from it
		},
		Protocols: protocols, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout: idleTimeout, MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdlePerPort,
	}}
}

type targetKey struct{}

// withoutInterim drops interim answers (1xx) of the guest: they would reach the client without what response makes of an answer, and
// httputil forgets the headers that the platform has set with each. It does so by the request's own context, which, unlike
// that of httputil, listens to none.
type withoutInterim struct {
	http.RoundTripper
	ctx context.Context
}

// RoundTrip implements http.RoundTripper.
func (w withoutInterim) RoundTrip(r *http.Request) (*http.Response, error) {
	return w.RoundTripper.RoundTrip(r.WithContext(w.ctx))
}

// Serve passes a request on to the target and its answer back.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, to Target) {
	body := &body{ReadCloser: r.Body, http1: r.ProtoMajor == 1}
	body.ended.Store(r.Body == http.NoBody)
	r = r.WithContext(context.WithValue(r.Context(), targetKey{}, to))
	pass := httputil.ReverseProxy{
		Transport: withoutInterim{p.transport, r.Context()},
		Rewrite:   func(pr *httputil.ProxyRequest) { to.request(pr) },
		ModifyResponse: func(resp *http.Response) error {
			to.response(r, resp)
			body.closeUnlessEnded(resp.Header)
			return nil
		},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			body.closeUnlessEnded(w.Header())
			p.failed(w, r, to, err)
		},
	}
	// The server of the guest may answer while it still reads. It is unsupported only in HTTP/2, which needs no leave.
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	defer body.end(rc)
	if r.Body != http.NoBody {
		r.Body = body
	}
	if to.Prefix == "" {
		w.Header().Del("X-Content-Type-Options") // the platform's, which is for its own origin
	}
	pass.ServeHTTP(w, r)
}

// body is that of a request, which the transport may go on reading after the answer has ended.
type body struct {
	io.ReadCloser
	http1 bool
	ended atomic.Bool // it was read to its end
}

// closeUnlessEnded has the server close the connection after an answer that goes before the end of the body: what follows on the
// connection is the rest of that, and no request.
func (b *body) closeUnlessEnded(answer http.Header) {
	if b.http1 && !b.ended.Load() {
		answer.Set("Connection", "close")
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

// end breaks off a read that is under way, and closes what is left of the body before the server does: with full duplex it
// would, at the end of the body, begin to read the next request twice.
func (b *body) end(rc *http.ResponseController) {
	if !b.ended.Load() {
		_ = rc.SetReadDeadline(time.Unix(1, 0)) // unsupported only in unit tests
	}
	_ = b.Close() // the connection is closed if that was not all
}

func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, to Target, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	var coded *models.Error
	if !errors.As(err, &coded) {
		coded = models.Errorf(models.Unavailable, "the server on port %d of the sandbox gave no proper answer", to.Port).WithCause(err)
	}
	p.fail(w, r, coded)
}

// local is the host that a server in the guest sees.
func (t Target) local() string { return "localhost:" + strconv.Itoa(t.Port) }

func (t Target) request(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme, out.URL.Host = "http", string(t.Sandbox)+":"+strconv.Itoa(t.Port) // where kept connections are found again
	out.URL.Path, out.URL.RawPath = t.path(in.URL)
	out.URL.RawQuery = withoutToken(in.URL.RawQuery)
	out.Host = t.local()
	out.Trailer = in.Trailer // the very map that is filled at the end of the body
	strip(out.Header)

	out.Header["X-Forwarded-For"] = in.Header["X-Forwarded-For"]
	pr.SetXForwarded()
	out.Header.Set("X-Forwarded-Proto", Scheme(in))
	if out.Header.Del("X-Forwarded-Prefix"); t.Prefix != "" {
		out.Header.Set("X-Forwarded-Prefix", t.Prefix)
	}
	if origin, err := url.Parse(in.Header.Get("Origin")); err == nil && origin.Host != "" && strings.EqualFold(origin.Host, in.Host) {
		out.Header.Set("Origin", "http://"+t.local())
		out.Header.Del("X-Forwarded-Host")
	}
}

// path returns the path that the guest sees, plain and escaped.
func (t Target) path(u *url.URL) (plain, escaped string) {
	escaped = u.EscapedPath()
	if t.Prefix != "" {
		escaped = afterPrefix(escaped, strings.Count(t.Prefix, "/"))
	}
	plain, err := url.PathUnescape(escaped)
	if err != nil { // it was read from u
		return "/", ""
	}
	return plain, escaped
}

// afterPrefix drops the first elements of a path. The prefix cannot be cut off as a text: it may be escaped in the request.
func afterPrefix(path string, elements int) string {
	for range elements {
		_, rest, found := strings.Cut(path[1:], "/")
		if !found {
			return "/"
		}
		path = "/" + rest
	}
	return path
}

// Scheme is how a client reached the platform, which may be through a proxy that ends TLS. A client that lies about
// it is told its own lie.
func Scheme(r *http.Request) string {
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		return "https"
	}
	return "http"
}
