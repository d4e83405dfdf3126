package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// badRequest is a request that is answered with an error before any handler sees it, after which the connection ends.
type badRequest struct {
	status int
	text   string
}

func (b *badRequest) Error() string { return b.text }

func badf(status int, format string, args ...any) error {
	return &badRequest{status: status, text: fmt.Sprintf(format, args...)}
}

// request is a request, and what its head says about the connection.
type request struct {
	*http.Request
	body    io.Reader // nil if there is none
	expects bool      // whether the peer waits for 100 before it sends the body
	close   bool      // whether it wants no other answer
	old     bool      // whether it speaks HTTP/1.0
}

// readRequest reads a head. An error that is no badRequest is the connection's.
func (c *conn) readRequest(ctx context.Context) (*request, error) {
	in := &lines{r: c.buffer(), left: c.service.MaxHeader}
	r, err := readRequestLine(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := readFields(in, r.Header); err != nil {
		return nil, err
	}
	if err := r.frame(c.reader); err != nil {
		return nil, err
	}
	if r.body == nil {
		c.shrink()
	}
	return r, nil
}

// readRequestLine reads "GET /path HTTP/1.1".
func readRequestLine(ctx context.Context, in *lines) (*request, error) {
	line, err := in.next()
	if err != nil {
		return nil, err
	}
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !strings.HasPrefix(version, "HTTP/") {
		return nil, badf(http.StatusBadRequest, "malformed request line")
	}
	if version != "HTTP/1.1" && version != "HTTP/1.0" {
		return nil, badf(http.StatusHTTPVersionNotSupported, "unsupported protocol version")
	}
	r, err := http.NewRequest(ctx, method, target)
	if err != nil {
		return nil, badf(http.StatusBadRequest, "%v", err)
	}
	r.ProtoMajor = 1
	return &request{Request: r, old: version == "HTTP/1.0"}, nil
}

// readFields reads the fields up to the empty line.
func readFields(in *lines, header http.Header) error {
	for count := 0; ; count++ {
		line, err := in.next()
		if err != nil || line == "" {
			return err
		}
		name, value, ok := parseField(line)
		switch {
		case !ok:
			return badf(http.StatusBadRequest, "malformed header field")
		case count == http.MaxFields:
			return badf(http.StatusRequestHeaderFieldsTooLarge, "more than %d header fields", http.MaxFields)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		header[name] = append(header[name], value)
	}
}

func parseField(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, ":")
	value = strings.Trim(value, " \t")
	return name, value, ok && http.ValidToken(name) && http.ValidValue(value)
}

// frame finds out what the head says about the body and the connection, and takes those fields away that handlers have no use for.
func (r *request) frame(from *bufio.Reader) error {
	if err := r.checkHost(); err != nil {
		return err
	}
	r.close = r.old || r.Header.Has("Connection", "close")
	if err := r.findBody(from); err != nil {
		return err
	}
	if expect := r.Header.Get("Expect"); expect != "" && !r.old {
		if !strings.EqualFold(expect, "100-continue") {
			return badf(http.StatusExpectationFailed, "unknown expectation")
		}
		r.expects = r.body != nil
	}
	return nil
}

func (r *request) checkHost() error {
	hosts := r.Header["Host"]
	if len(hosts) > 1 || len(hosts) == 0 && !r.old || len(hosts) == 1 && !http.ValidHost(hosts[0]) {
		return badf(http.StatusBadRequest, "a request needs one valid Host header field")
	}
	if len(hosts) == 1 && r.Host == "" {
		r.Host = hosts[0]
	}
	delete(r.Header, "Host")
	return nil
}

// findBody applies RFC 9112, section 6.3, and refuses what other servers might understand in another way.
func (r *request) findBody(from *bufio.Reader) error {
	codings, lengths := r.Header["Transfer-Encoding"], r.Header["Content-Length"]
	switch {
	case len(codings) > 0 && (len(lengths) > 0 || r.old):
		return badf(http.StatusBadRequest, "Transfer-Encoding beside Content-Length, or in HTTP/1.0")
	case len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return badf(http.StatusNotImplemented, "unsupported transfer encoding")
	case len(codings) == 1:
		delete(r.Header, "Transfer-Encoding")
		r.ContentLength = -1
		r.body = &chunked{r: from}
		return nil
	case len(lengths) == 0:
		return nil
	}
	n, err := strconv.ParseUint(lengths[0], 10, 63)
	if err != nil || len(lengths) > 1 {
		return badf(http.StatusBadRequest, "malformed Content-Length")
	}
	if r.ContentLength = int64(n); n > 0 {
		r.body = &fixed{r: from, left: int64(n)}
	}
	return nil
}

// lines reads the lines of a head.
type lines struct {
	r    *bufio.Reader
	left int // how many bytes there may be
}

// next returns a line without its end. Before any line, an error is the connection's.
func (l *lines) next() (string, error) {
	var long []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if l.left -= len(part); l.left < 0 {
			return "", badf(http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large")
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if err != nil {
			return "", err
		}
		line := string(part)
		if long != nil {
			line = string(append(long, part...))
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			return "", badf(http.StatusBadRequest, "a line does not end with CR LF")
		}
		return text, nil
	}
}
