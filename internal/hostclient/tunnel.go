package hostclient

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// openLimit bounds the opening of a tunnel; the agent itself gives up earlier.
const openLimit = 40 * time.Second

// Tunnel connects to the envd of a sandbox, which answers in this connection without a token. ctx bounds the
// opening alone. It is a *tunnel.Conn, which says how it differs from other connections.
func (c *Client) Tunnel(ctx context.Context, sb id.Sandbox) (net.Conn, error) {
	ctx, done := context.WithTimeout(ctx, openLimit)
	defer done()
	life, cancel := context.WithCancel(c.life)
	stop := context.AfterFunc(ctx, cancel)
	stream, err := c.api.Tunnel(life)
	if err == nil {
		err = stream.Send(&pb.TunnelRequest{SandboxId: string(sb)})
	}
	if err == nil || errors.Is(err, io.EOF) { // then the reason is here
		_, err = stream.Recv()
	}
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, opening(err)
	}
	conn := tunnel.New(life, cancel, stream, string(sb))
	if !c.keep(conn) {
		return nil, models.Errorf(models.Unavailable, "the connection to the host was closed")
	}
	return conn, nil
}

// opening codes what an opening failed with. No tunnel ends in order before it is open.
func opening(err error) error {
	if errors.Is(err, io.EOF) {
		return models.Errorf(models.Unavailable, "the connection to the sandbox was lost").WithCause(err)
	}
	return grpcerr.Decode(err)
}

// keep has Close wait for conn, unless that has begun: then it ends conn and reports false.
func (c *Client) keep(conn *tunnel.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		conn.Wait() // its context has ended
		return false
	}
	c.left.Go(conn.Wait)
	return true
}
