// Package http is what envd's handlers see of HTTP: requests, answers, routes, and content with ranges. Its names are those of
// net/http, and mean the same as far as they go. Packages http1 and http2 speak the two versions, package serve listens.
//
// It is not net/http because that links TLS, a client, proxies and cookies into every guest, whose pages were most of envd's
// memory (docs/adr/0006). Left out is what envd does not need: TLS, redirects, cookies, guessed content types, forms, HTTP/1.0's
// connections that stay open, requests' trailers, and pushes.
package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"net/url"
	"strings"
)

// The methods that envd's handlers know.
const (
	MethodGet  = "GET"
	MethodHead = "HEAD"
	MethodPost = "POST"
)

var (
	// ErrAbortHandler is a value to panic with: it breaks the answer off so that nobody takes it for whole.
	ErrAbortHandler = errors.New("the handler broke off its answer")
	// ErrBodyNotAllowed is the answer to a Write under a status that has no body.
	ErrBodyNotAllowed = errors.New("an answer with this status has no body")
	// ErrContentLength is the answer to a Write beyond the Content-Length that was announced.
	ErrContentLength = errors.New("the answer is longer than its Content-Length")
	// ErrBodyReadAfterClose is the answer to a Read of a body whose request has been answered.
	ErrBodyReadAfterClose = errors.New("the request has been answered, and its body is gone")
)

// Header maps names in their canonical form, as in Content-Type, to values.
type Header map[string][]string

// Add adds a value to those of name.
func (h Header) Add(name, value string) { textproto.MIMEHeader(h).Add(name, value) }

// Set makes value the only one of name.
func (h Header) Set(name, value string) { textproto.MIMEHeader(h).Set(name, value) }

// Get returns the first value of name, or "".
func (h Header) Get(name string) string { return textproto.MIMEHeader(h).Get(name) }

// Values returns all values of name, which are the header's own.
func (h Header) Values(name string) []string { return textproto.MIMEHeader(h).Values(name) }

// Del removes name.
func (h Header) Del(name string) { textproto.MIMEHeader(h).Del(name) }

// Has reports whether one of the comma-separated elements of name is token, in whatever case.
func (h Header) Has(name, token string) bool {
	for _, value := range h.Values(name) {
		for element := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(element), token) {
				return true
			}
		}
	}
	return false
}

// Request is a request as it came in. One goroutine at a time may use it.
type Request struct {
	Method     string
	URL        *url.URL
	ProtoMajor int
	Host       string
	Header     Header
	// Body is never nil. It can be read until the handler returns.
	Body io.ReadCloser
	// ContentLength is that of the body, -1 if it is not known.
	ContentLength int64

	ctx        context.Context
	path       string // the variable part of the path
	pathSymbol string // and its name
}

// NewRequest returns a request without a body. The target is that of a request line (RFC 9112, section 3.2).
func NewRequest(ctx context.Context, method, target string) (*Request, error) {
	if !ValidToken(method) {
		return nil, fmt.Errorf("%.20q is not a method", method)
	}
	at, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, fmt.Errorf("%.80q is not a request target", target)
	}
	return &Request{Method: method, URL: at, Host: at.Host, Header: Header{}, Body: NoBody{}, ctx: ctx}, nil
}

// Context ends when the caller goes away or the handler returns.
func (r *Request) Context() context.Context { return r.ctx }

// PathValue returns the part of the path that the pattern of the route calls name.
func (r *Request) PathValue(name string) string {
	if name != r.pathSymbol {
		return ""
	}
	return r.path
}

// NoBody is the body of a request without one.
type NoBody struct{}

// Read says that there is nothing.
func (NoBody) Read([]byte) (int, error) { return 0, io.EOF }

// Close does nothing.
func (NoBody) Close() error { return nil }

// MaxBytesReader returns r, but for an error where r has more than limit bytes.
func MaxBytesReader(r io.Reader, limit int64) io.Reader {
	return &maxBytes{r: r, left: limit, limit: limit}
}

type maxBytes struct {
	r           io.Reader
	left, limit int64
}

func (m *maxBytes) Read(p []byte) (int, error) {
	if int64(len(p)) > m.left+1 {
		p = p[:m.left+1]
	}
	n, err := m.r.Read(p)
	if m.left -= int64(n); m.left < 0 {
		return n - 1, fmt.Errorf("the body is larger than %d bytes", m.limit)
	}
	return n, err
}
