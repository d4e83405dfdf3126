package http2

import (
	"context"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// maxHeadFrames is how many frames a head may take.
const maxHeadFrames = 32

// receiveHeaders begins a request, or ends one with a trailer.
func (c *conn) receiveHeaders(f *frame) error {
	if f.stream%2 == 0 {
		return connError{protocolError, "HEADERS on a stream that is not the peer's to open"}
	}
	if err := f.unpad(); err != nil {
		return err
	}
	block := f.payload
	if f.has(flagPriority) {
		if len(block) < 5 {
			return connError{frameSizeError, "HEADERS are cut off"}
		}
		block = block[5:]
	}
	opens := f.stream > c.lastID
	if opens {
		c.lastID = f.stream
	}
	h := &head{limit: c.service.MaxHeader, header: http.Header{}}
	if err := c.readHead(h, block, f); err != nil {
		return err
	}
	if !opens {
		return c.receiveTrailer(f)
	}
	return c.open(f.stream, h, f.has(flagEndStream))
}

// readHead reads a block of fields to its end, also if it is of no use, since later blocks depend on it.
func (c *conn) readHead(h *head, block []byte, f *frame) error {
	c.fields.SetEmitFunc(h.field)
	block = append([]byte{}, block...)
	_ = c.SetReadDeadline(time.Now().Add(c.service.HeaderTimeout))
	for frames, done := 1, f.has(flagEndHeaders); ; frames++ {
		if len(block) > c.service.MaxHeader || frames > maxHeadFrames {
			return connError{enhanceYourCalm, "a head is too large"}
		}
		if done {
			break
		}
		next, err := readFrame(c.reader, new([maxFrame]byte))
		if err != nil {
			return err
		}
		if next.kind != frameContinuation || next.stream != f.stream {
			return connError{protocolError, "a head is interrupted"}
		}
		block, done = append(block, next.payload...), next.has(flagEndHeaders)
	}
	if _, err := c.fields.Write(block); err != nil {
		return connError{compressionError, err.Error()}
	}
	if err := c.fields.Close(); err != nil {
		return connError{compressionError, err.Error()}
	}
	return nil
}

// receiveTrailer ends a request's body. What the trailer says is forgotten.
func (c *conn) receiveTrailer(f *frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.stream]
	switch {
	case s == nil:
		return nil // it has ended meanwhile
	case !f.has(flagEndStream):
		return streamError{f.stream, protocolError}
	}
	return s.receive(nil, 0, true)
}

// head are the fields of a request.
type head struct {
	limit  int
	size   int
	count  int
	header http.Header

	method, scheme, path, authority string
	regular                         bool // whether a field without a colon has come
	wrong                           bool
	large                           bool
}

// field takes one field. It goes on after a wrong one, for the sake of later blocks.
func (h *head) field(f hpack.HeaderField) {
	h.count++
	if h.size += int(f.Size()); h.size > h.limit || h.count > http.MaxFields {
		h.large = true
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		h.pseudo(f)
		return
	}
	h.regular = true
	if !http.ValidToken(f.Name) || strings.ToLower(f.Name) != f.Name || !http.ValidValue(f.Value) || ofConnection(f) {
		h.wrong = true
		return
	}
	name := textproto.CanonicalMIMEHeaderKey(f.Name)
	if name == "Cookie" && len(h.header[name]) > 0 { // section 8.2.3
		h.header[name][0] += "; " + f.Value
		return
	}
	h.header[name] = append(h.header[name], f.Value)
}

// ofConnection reports whether a field is one that only HTTP/1.1 has (section 8.2.2).
func ofConnection(f hpack.HeaderField) bool {
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return true
	case "te":
		return f.Value != "trailers"
	}
	return false
}

func (h *head) pseudo(f hpack.HeaderField) {
	var to *string
	switch f.Name {
	case ":method":
		to = &h.method
	case ":scheme":
		to = &h.scheme
	case ":path":
		to = &h.path
	case ":authority":
		to = &h.authority
	}
	if to == nil || *to != "" || f.Value == "" || h.regular {
		h.wrong = true
		return
	}
	*to = f.Value
}

// request returns what the head asks for. An error means that the head is wrong.
func (h *head) request(ctx context.Context, ends bool) (*http.Request, bool) {
	if h.wrong || h.scheme == "" || !http.ValidHost(h.authority) {
		return nil, false
	}
	r, err := http.NewRequest(ctx, h.method, h.path)
	if err != nil || !h.takeHost(r) {
		return nil, false
	}
	r.ProtoMajor, r.Header = 2, h.header
	lengths := h.header["Content-Length"]
	switch {
	case len(lengths) > 1:
		return nil, false
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		r.ContentLength = int64(n)
		return r, err == nil && (n == 0 || !ends)
	case !ends:
		r.ContentLength = -1
	}
	return r, true
}

// takeHost takes the authority, or Host where there is none.
func (h *head) takeHost(r *http.Request) bool {
	hosts := h.header["Host"]
	delete(h.header, "Host")
	switch {
	case len(hosts) > 1, len(hosts) == 1 && !http.ValidHost(hosts[0]):
		return false
	case h.authority != "":
		r.Host = h.authority
	case len(hosts) == 1:
		r.Host = hosts[0]
	}
	return true
}
