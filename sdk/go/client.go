package wrenn

import (
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// DefaultBaseURL is where a control plane on this machine listens.
const DefaultBaseURL = "http://127.0.0.1:8000"

// Options of a client. Only APIKey is required, and not even that for Ready.
type Options struct {
	BaseURL string // scheme and host of the service; "" means DefaultBaseURL
	APIKey  string // "wrn_" and 32 lower-case hexadecimal digits
	// HTTPClient sends the requests; nil means one of the client's own. Redirects are never followed,
	// because they could carry the key elsewhere.
	HTTPClient *http.Client
	// Timeout bounds calls whose context has no deadline, except ExecStream and the transfer of files; for
	// Exec it comes on top of the program's own timeout. 0 means 3 minutes.
	Timeout time.Duration
	// MaxRetries is how often a request is repeated where that is safe; 0 means 3, below 0 never.
	MaxRetries int
	UserAgent  string // "" means "wrenn-go"
}

// Client calls the service. It may be used by many goroutines at once.
type Client struct {
	base    string
	opts    Options
	http    *http.Client
	backoff time.Duration // before the first repetition, doubled each time
	silence time.Duration // after which a stream of events counts as broken
}

// NewClient returns a client. It fails when BaseURL is not an http or https URL; it does not connect yet.
func NewClient(opts Options) (*Client, error) {
	if opts.BaseURL == "" {
		opts.BaseURL = DefaultBaseURL
	}
	u, err := url.Parse(opts.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" {
		return nil, invalid("the service's URL %q is not of the form http://host:port", opts.BaseURL)
	}
	if strings.ContainsAny(opts.APIKey, "\r\n\x00") {
		return nil, invalid("the API key contains a line break")
	}
	return &Client{base: strings.TrimRight(opts.BaseURL, "/"), opts: opts.withDefaults(), http: httpClient(opts.HTTPClient), backoff: 100 * time.Millisecond, silence: maxSilence}, nil
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Minute
	}
	if o.MaxRetries == 0 {
		o.MaxRetries = 3
	}
	if o.UserAgent == "" {
		o.UserAgent = "wrenn-go"
	}
	return o
}

// httpClient is given, or a client with limits on everything but the answer: creating a
// sandbox may take long. It never follows redirects.
func httpClient(given *http.Client) *http.Client {
	c := http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   64,
		ForceAttemptHTTP2:     true,
	}}
	if given != nil {
		c = *given
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// idForm is looser than the service's own form of ids; it keeps a wrong one from changing the request's path.
var idForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// sandboxPath is the path of a sandbox, or of what lies below it.
func sandboxPath(id string, below ...string) (string, error) {
	if !idForm.MatchString(id) {
		return "", invalid("sandbox id %q is not of the form sb-xxxxxxxx", id)
	}
	return strings.Join(append([]string{"/v1/sandboxes", id}, below...), "/"), nil
}
