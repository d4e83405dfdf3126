// Package envdclient is our side of the guest protocol: it runs processes, moves files and reaches ports
// through the envd of one sandbox.
//
// The guest is not trusted: whatever comes from it is bounded in size and time, and only its
// text reaches users, cleaned, as part of an error's message. All errors are of type *models.Error:
//
//   - invalid, not_found, precondition, exhausted, forbidden: what the guest says about the request;
//   - unavailable: the guest does not answer, or not sensibly, or went away meanwhile;
//   - deadline, or unavailable for a cancelled one: the caller's context has ended;
//   - internal: the guest refuses our token, or reports a fault of its own.
package envdclient

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem/filesystemconnect"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// Dial connects to the envd of the sandbox. It may wait until a booting guest listens; it must end with ctx.
type Dial func(ctx context.Context) (net.Conn, error)

// limits are the bounds on what a guest may do to its host. They are variables for the tests' sake.
type limits struct {
	answer   time.Duration // for the answer to a short request
	silence  time.Duration // for the next part of a stream; keepalives count
	killWait time.Duration // for a killed process's end
	grace    time.Duration // how long after a timeout envd may take to report it
}

const (
	// maxHeader bounds the headers of an answer, maxMessage one message of a stream (envd's chunks of
	// output have 64 KiB), maxAnswer the body of a short answer.
	maxHeader, maxMessage, maxAnswer = 64 << 10, 1 << 20, 64 << 10
	// maxListing bounds the answer that lists processes or directories: some 80,000 files. What becomes of it in memory is bounded by maxCost.
	maxListing = 16 << 20
	// maxIdle connections are kept for idleTimeout, which is below envd's own (640 s).
	maxIdle, idleTimeout = 16, 90 * time.Second
	// keepaliveSeconds is how often envd shows that a silent process still runs.
	keepaliveSeconds = "15"
	ioBuffer         = 64 << 10
)

const (
	headerToken   = "X-Access-Token"
	headerVersion = "X-Envd-Version"
	// headerExtensions asks for the fields and events of the protocol that are ours.
	headerExtensions = "Wrenn-Extensions"
	headerKeepalive  = "Keepalive-Ping-Interval"
	// Ours; package processrpc of envd documents them.
	headerReason           = "Wrenn-Reason"
	headerKillOnDisconnect = "Wrenn-Kill-On-Disconnect"
	reasonUnknownUser      = "unknown_user"
)

// base is a URL that only Dial gives a meaning to.
const base = "http://envd"

// Client talks to one sandbox's envd. Connections are kept and used again. Its methods
// may be called at the same time.
type Client struct {
	dialer Dial
	limits limits
	http   *http.Client
	rpc    processconnect.ProcessClient
	lists  processconnect.ProcessClient // takes longer answers than rpc
	files  filesystemconnect.FilesystemClient
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	token string
}

// New returns a client. Nothing is dialled yet. Token is the sandbox's; it goes with every
// request, and Init gives it to the guest. It is empty where dial gives connections that are authorized (Tunnel).
// Close frees what the client holds.
func New(dial Dial, token string) *Client {
	c := &Client{
		dialer: dial, token: token,
		limits: limits{answer: 30 * time.Second, silence: time.Minute, killWait: 10 * time.Second, grace: 10 * time.Second},
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true) // a connection a request: a stalled stream holds up no other
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
			Protocols:              protocols,
			DisableCompression:     true,
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxIdle,
			IdleConnTimeout:        idleTimeout,
			ExpectContinueTimeout:  c.limits.answer,
			MaxResponseHeaderBytes: maxHeader,
			ReadBufferSize:         ioBuffer,
			WriteBufferSize:        ioBuffer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	plain := connect.WithClientOptions(connect.WithAcceptCompression("gzip", nil, nil), connect.WithCodec(boundedCodec{}))
	c.rpc = processconnect.NewProcessClient(c.http, base, connect.WithReadMaxBytes(maxMessage), plain)
	c.lists = processconnect.NewProcessClient(c.http, base, connect.WithReadMaxBytes(maxListing), plain)
	c.files = filesystemconnect.NewFilesystemClient(c.http, base, connect.WithReadMaxBytes(maxListing), plain)
	return c
}

// dial ends with the client too: the transport lets a dial outlive its request.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel(nil)
	return c.dialer(ctx)
}

var errClosed = errors.New("the client was closed")

// bound returns a context that ends with ctx, with the client, or with cancel.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if c.ctx.Err() != nil {
		cancel(errClosed) // now, and not in a goroutine
	}
	stop := context.AfterFunc(c.ctx, func() { cancel(errClosed) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}

// detached is bound without ctx's deadline, which package connect would send to the guest as Connect-Timeout-Ms: to be taken for a
// process's, or to be answered a moment before ctx has ended.
func (c *Client) detached(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	call, cancel := c.bound(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return call, func(cause error) {
		stop()
		cancel(cause)
	}
}

// Close ends all calls and connections. Processes that Exec started are killed by the guest when it
// sees that, if there still is a guest.
func (c *Client) Close() {
	c.cancel(errClosed)
	c.http.CloseIdleConnections()
}

func (c *Client) currentToken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *Client) setToken(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

// authorize is called for every request.
func (c *Client) authorize(header http.Header) {
	header.Set(headerExtensions, "1")
	if token := c.currentToken(); token != "" {
		header.Set(headerToken, token)
	}
}
