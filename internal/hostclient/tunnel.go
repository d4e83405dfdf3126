package hostclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
)

// openLimit bounds the opening of a tunnel; the agent itself gives up earlier.
const openLimit = 40 * time.Second

// Tunnel connects to the envd of a sandbox, which answers in this connection without a token. ctx bounds the
// opening alone. It is a *tunnel.Conn, which says how it differs from other connections.
func (c *Client) Tunnel(ctx context.Context, sb id.Sandbox) (net.Conn, error) {
	ctx, done := context.WithTimeout(ctx, openLimit)
	defer done()
	defer context.AfterFunc(c.life, done)()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	t, err := tunnel.Open(ctx, conn, string(sb))
	if err != nil {
		return nil, err
	}
	if !c.keep(t) {
		return nil, models.Errorf(models.Unavailable, "the connection to the host was closed")
	}
	return t, nil
}

// connect is dial, with errors fit for users.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, models.AsError(ctx.Err())
	}
	return nil, grpcerr.Decode(status.Error(codes.Unavailable, err.Error()))
}

// dial makes a connection of its own to where the agent listens. Over TCP it is probed while it is idle, as is Go's default:
// a host that lost its power ends it within minutes.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	network, address := "tcp", c.address
	if path, isUnix := strings.CutPrefix(address, "unix://"); isUnix {
		network, address = "unix", path
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil || c.secure == nil {
		return conn, err
	}
	secured := tls.Client(conn, c.secure)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // nothing was sent
		return nil, fmt.Errorf("TLS with the host agent: %w", err)
	}
	c.peer.Store(secured.ConnectionState().PeerCertificates[0])
	return secured, nil
}

// keep has Close end conn and wait for it, unless that has begun: then it ends conn and reports false.
func (c *Client) keep(conn *tunnel.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		conn.Break()
		return false
	}
	c.left.Go(func() { conn.Wait(c.life) })
	return true
}
