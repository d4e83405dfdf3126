package files

import (
	"compress/gzip"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// The content codings of RFC 9110, section 8.4.1, that are understood.
const codingGzip, codingIdentity = "gzip", "identity"

// compressors are kept because each has 1 MiB of tables. Speed matters more than size: what
// is compressed goes through a channel that is faster than any compression.
var compressors = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // a valid level
	return w
}}

// acceptable is what an Accept-Encoding header says (RFC 9110, section 12.5.3): the weight of each coding.
type acceptable map[string]float64

func parseAccept(header string) acceptable {
	a := acceptable{}
	for element := range strings.SplitSeq(header, ",") {
		coding, params, _ := strings.Cut(element, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding != "" {
			a[coding] = weight(params)
		}
	}
	return a
}

// weight returns the q among parameters, which is 1 if it is missing or senseless.
func weight(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if q, err := strconv.ParseFloat(value, 64); err == nil && strings.EqualFold(name, "q") && q >= 0 && q <= 1 {
			return q
		}
	}
	return 1
}

// identity reports whether the content may be sent as it is, which is so unless it is said not to be.
func (a acceptable) identity() bool {
	if q, named := a[codingIdentity]; named {
		return q > 0
	}
	q, named := a["*"]
	return !named || q > 0
}

// coding chooses what to send: gzip where it is named and liked no less than the content as it is, or
// where nothing else remains; "" when nothing remains at all.
func (a acceptable) coding() string {
	q, named := a[codingGzip]
	switch {
	case named && q > 0 && q >= a[codingIdentity]:
		return codingGzip
	case a.identity():
		return codingIdentity
	case named && q > 0, !named && a["*"] > 0:
		return codingGzip
	}
	return ""
}

// responseCoding chooses the coding of an answer, and says in a header that there is a choice. Parts of a
// file, and answers to conditions, are those of the content as it is.
func responseCoding(w http.ResponseWriter, r *http.Request) (string, *apierror.Error) {
	w.Header().Set("Vary", "Accept-Encoding")
	accept := parseAccept(strings.Join(r.Header.Values("Accept-Encoding"), ","))
	for _, name := range []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if r.Header.Get(name) == "" {
			continue
		}
		if !accept.identity() {
			return "", apierror.New(http.StatusNotAcceptable, "identity encoding not acceptable for Range or conditional request")
		}
		return codingIdentity, nil
	}
	coding := accept.coding()
	if coding == "" {
		return "", apierror.New(http.StatusNotAcceptable, "no acceptable encoding found, supported: [identity gzip]")
	}
	return coding, nil
}

// requestBody returns the body decoded.
func requestBody(r *http.Request) (io.Reader, *apierror.Error) {
	switch coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); coding {
	case "", codingIdentity:
		return r.Body, nil
	case codingGzip:
		body, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, apierror.New(http.StatusBadRequest, "error decompressing request body: %v", err)
		}
		return body, nil
	default:
		return nil, apierror.New(http.StatusUnsupportedMediaType, "content encoding %q is not supported, only gzip is", coding)
	}
}

// compressed calls send with a writer whose content reaches w compressed. If send fails, the end of the
// compressed stream is missing.
func compressed(w http.ResponseWriter, send func(io.Writer) error) error {
	gz := compressors.Get().(*gzip.Writer)
	defer compressors.Put(gz)
	gz.Reset(w)
	if err := send(gz); err != nil {
		return err
	}
	return gz.Close()
}

// drain reads the rest of a body of which all that matters has been read: what is compressed has its
// checksum at the end.
func drain(body io.Reader) *apierror.Error {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return apierror.New(http.StatusBadRequest, "the end of the request body is damaged or missing: %v", err)
	}
	return nil
}
