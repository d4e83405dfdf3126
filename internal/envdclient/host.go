package envdclient

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const pathHealth = "/health"

// Health is what envd says about itself before it knows anybody.
type Health struct {
	Version string // of envd
}

// Init is what the host tells a guest when it takes it over. What is left zero stays as it is.
type Init struct {
	// Token replaces the client's token, from the guest's agreement on. Empty: the client's own is sent.
	Token          string
	Hostname       string
	Env            map[string]string // of every process; nil keeps, empty clears
	Now            time.Time
	Network        *Network
	DefaultUser    string
	DefaultWorkdir string
}

// Network is the guest's eth0. With an Address what IPv6 says is so, too: nil is none. Without, nil keeps what there is.
type Network struct {
	Address netip.Prefix `json:"address,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	IPv6    *IPv6        `json:"ipv6,omitempty"`
	DNS     []netip.Addr `json:"dns,omitempty"`
}

// IPv6 is the guest's eth0 by IPv6; all zero: it has none.
type IPv6 struct {
	Address netip.Prefix `json:"address,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// initBody is Init on the wire.
type initBody struct {
	EnvVars        map[string]string `json:"envVars,omitempty"`
	AccessToken    string            `json:"accessToken,omitempty"`
	Timestamp      string            `json:"timestamp,omitempty"` // see stamp
	DefaultUser    string            `json:"defaultUser,omitempty"`
	DefaultWorkdir string            `json:"defaultWorkdir,omitempty"`
	Hostname       string            `json:"hostname,omitempty"`
	Network        *Network          `json:"network,omitempty"`
}

// Metrics is what a guest uses, in bytes where the name has no unit.
type Metrics struct {
	Timestamp  int64   `json:"ts"` // the guest's clock, seconds since 1970
	CPUCount   int     `json:"cpu_count"`
	CPUUsedPct float64 `json:"cpu_used_pct"` // of all CPUs together, since the previous call
	MemTotal   uint64  `json:"mem_total"`
	MemUsed    uint64  `json:"mem_used"`
	MemCache   uint64  `json:"mem_cache"`
	DiskTotal  uint64  `json:"disk_total"`
	DiskUsed   uint64  `json:"disk_used"`
}

// Health asks whether envd serves. It waits for a booting guest for as long as Dial does and ctx
// allows, then for an answer for 30 s.
func (c *Client) Health(ctx context.Context) (Health, error) {
	resp, finish, err := c.short(ctx, http.MethodGet, pathHealth, nil)
	if err != nil {
		return Health{}, err
	}
	defer finish()
	return Health{Version: clean(resp.Header.Get(headerVersion))}, nil
}

// Init takes the guest over. The first one sets its token; later ones need it.
func (c *Client) Init(ctx context.Context, in Init) error {
	body := in.body()
	if body.AccessToken == "" {
		body.AccessToken = c.currentToken()
	}
	if !in.Now.IsZero() {
		body.Timestamp = stamp(in.Now)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return models.Errorf(models.Invalid, "the settings of the guest cannot be sent").WithCause(err)
	}
	_, finish, err := c.short(ctx, http.MethodPost, "/init", data)
	if err != nil {
		return err
	}
	finish()
	c.setToken(body.AccessToken)
	return nil
}

func (in Init) body() initBody {
	return initBody{
		EnvVars: in.Env, AccessToken: in.Token, DefaultUser: in.DefaultUser,
		DefaultWorkdir: in.DefaultWorkdir, Hostname: in.Hostname, Network: in.Network,
	}
}

// Scrub has a guest fill its free memory with zeros. It takes a moment for each 100 MiB.
func (c *Client) Scrub(ctx context.Context) error { return c.tell(ctx, "/scrub") }

// Forget has a guest forget its token, all it was told and what it has run, and write what waits for its disk: it can be frozen for others then.
func (c *Client) Forget(ctx context.Context) error { return c.tell(ctx, "/forget") }

// Shutdown asks the guest to end in order, and returns once it has agreed.
func (c *Client) Shutdown(ctx context.Context) error { return c.tell(ctx, "/shutdown") }

// tell posts a request that has no body, and whose answer is only that it was done.
func (c *Client) tell(ctx context.Context, path string) error {
	_, finish, err := c.short(ctx, http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	finish()
	return nil
}

// Metrics asks what the guest uses.
func (c *Client) Metrics(ctx context.Context) (Metrics, error) {
	resp, finish, err := c.short(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return Metrics{}, err
	}
	defer finish()
	var m Metrics
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&m); err != nil {
		return Metrics{}, transportError(resp.Request.Context(), err)
	}
	return m, nil
}

// short makes a request with a small body and a small answer. An answer other than 2xx is an error.
// After success the caller calls finish when it has read the answer.
func (c *Client) short(ctx context.Context, method, path string, body []byte) (*http.Response, func(), error) {
	ctx, cancel := c.bound(ctx)
	limit := c.limits.answer
	if path == pathResume {
		limit += hooksLimit
	}
	watch := newWatchdog(limit, cancel)
	if path == pathHealth { // how long a guest may take to boot is for the caller's context to say
		ctx = whenConnected(ctx, watch.arm)
	} else {
		watch.arm()
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		cancel(nil)
		return nil, nil, models.Errorf(models.Internal, "internal error").WithCause(err)
	}
	c.authorize(req.Header)
	resp, err := c.http.Do(req)
	if err != nil {
		failure := transportError(ctx, err)
		watch.stop()
		cancel(nil)
		return nil, nil, failure
	}
	finish := func() {
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be used again
		_ = resp.Body.Close()
		watch.stop()
		cancel(nil)
	}
	if resp.StatusCode/100 != 2 {
		defer finish()
		return nil, nil, statusError(resp)
	}
	return resp, finish, nil
}
