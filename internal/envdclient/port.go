package envdclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/proto/parts"
)

// DialPort connects to a TCP port that something in the guest listens on, on its loopback interface. It is
// Precondition when nothing does. Ctx bounds the connecting only; the end of the client ends the connection too. Either side
// can end its sending alone: the server's end is io.EOF, PortConn.CloseWrite is ours. After that the connection lives for as
// long as something comes from the other side every ten minutes.
func (c *Client) DialPort(ctx context.Context, port int) (*PortConn, error) {
	if port < 1 || port > 65535 {
		return nil, models.Errorf(models.Invalid, "a port is a number from 1 to 65535")
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	ctx, cancel := c.bound(ctx)
	defer cancel(nil)
	watch := newWatchdog(c.limits.answer, cancel)
	watch.arm()
	defer watch.stop()
	cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
	early, err := c.upgrade(conn, port)
	if !cut() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, transportError(ctx, err)
	}
	p := &PortConn{Conn: parts.New(conn, early)}
	p.stop = context.AfterFunc(c.ctx, func() { _ = conn.Close() })
	return p, nil
}

// upgrade makes conn one to the port, and returns what has come from it already.
func (c *Client) upgrade(conn net.Conn, port int) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, base+"/ports/"+strconv.Itoa(port), nil) //nolint:noctx // the connection ends with it
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {parts.Protocol}}
	c.authorize(req.Header)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxHeader))
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols:
		early := make([]byte, r.Buffered())
		_, err := io.ReadFull(r, early)
		return early, err
	case http.StatusBadGateway:
		return nil, models.Errorf(models.Precondition, "port %d is not open in the sandbox", port).
			WithHint("start a server that listens on it")
	}
	if resp.StatusCode < 400 {
		return nil, errors.New("unexpected answer to an upgrade: " + fmt.Sprint(resp.StatusCode))
	}
	return nil, statusError(resp)
}

// PortConn is a connection to a port in the guest.
type PortConn struct {
	*parts.Conn
	stop func() bool
}

// Close implements net.Conn.
func (p *PortConn) Close() error {
	p.stop()
	return p.Conn.Close()
}
