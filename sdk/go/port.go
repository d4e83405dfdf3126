package wrenn

import (
	"context"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// PortToken lets whoever has it reach a port of a sandbox over HTTP, without an API key, until it expires.
type PortToken struct {
	Token     string    `json:"token"`
	URL       string    `json:"url,omitempty"`      // on a host name of its own, with the token; "" when the service has no domain
	PathURL   string    `json:"path_url,omitempty"` // below the service's own address, with the token
	ExpiresAt time.Time `json:"expires_at"`
}

// CreatePortToken makes a token for a port, valid for at most 7 days (0 means an hour), in whole seconds.
func (c *Client) CreatePortToken(ctx context.Context, id string, port int, valid time.Duration) (*PortToken, error) {
	path, err := sandboxPath(id, "port-tokens")
	if err != nil {
		return nil, err
	}
	body := map[string]int{"port": port}
	if valid != 0 {
		body["expires_in_seconds"] = int(math.Ceil(valid.Seconds()))
	}
	var token PortToken
	if err := c.call(ctx, http.MethodPost, path, body, &token); err != nil {
		return nil, err
	}
	return &token, nil
}

// PortHandler passes HTTP requests, WebSockets among them, on to a port of a sandbox with the client's API key. Whoever reaches
// the handler reaches the port.
func (c *Client) PortHandler(id string, port int) (http.Handler, error) {
	if port < 1 || port > math.MaxUint16 {
		return nil, invalid("%d is no port: 1 to %d", port, math.MaxUint16)
	}
	path, err := sandboxPath(id, "ports", strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(c.base + path)
	if err != nil {
		return nil, invalid("make request: %v", err)
	}
	return &httputil.ReverseProxy{
		Transport:     c.http.Transport,
		FlushInterval: -1, // what the server in the sandbox streams
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(base)
			r.SetXForwarded()
			r.Out.Header.Set("X-API-Key", c.opts.APIKey)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, strings.ReplaceAll("the service could not be reached: "+innermost(err).Error(), "\n", " "), http.StatusBadGateway)
		},
	}, nil
}
