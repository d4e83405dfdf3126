package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/metrics"
)

// Classes of requests that have no limits of their own: see limit.go for the others.
const (
	classPort    = "port"    // what goes to a port of a sandbox
	classService = "service" // all that is not below /v1, such as health
)

// Meter counts and times requests. The zero value does not.
type Meter struct {
	requests  metrics.Counter
	durations metrics.Timer
	refused   metrics.Counter
}

// NewMeter returns a meter that s tells of.
func NewMeter(s *metrics.Set) Meter {
	return Meter{
		requests:  s.Counter("http_requests_total", "Requests that were answered, by class of their route and status; of ports of sandboxes by the first digit of the status alone.", "class", "status"),
		durations: s.Timer("http_request_duration_seconds", "How long they took. Streams and upgraded connections, which last as long as their client likes, are not in it.", "class"),
		refused:   s.Counter("rate_limit_refusals_total", "Requests that were refused since their key sends too many of the class.", "class"),
	}
}

// observe takes in a request that was answered.
func (m Meter) observe(r *http.Request, status int, answered http.Header, took time.Duration) {
	class := classService
	switch {
	case aboutOf(r.Context()).port:
		class = classPort
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		class = classOf(r.Method, r.URL.Path)
	}
	text := strconv.Itoa(status)
	if class == classPort { // what a sandbox answers is its own
		text = text[:1] + "xx"
	}
	m.requests.Add(1, class, text)
	if status != http.StatusSwitchingProtocols && !strings.HasPrefix(answered.Get("Content-Type"), eventStream) {
		m.durations.Observe(took, class)
	}
}
