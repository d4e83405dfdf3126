package envdclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Tunnel returns a new connection to envd in which no request needs the token. It is for somebody else to
// use, who does not learn the token; it ends with the client at the latest.
func (c *Client) Tunnel(ctx context.Context) (net.Conn, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel(nil)
	watch := newWatchdog(c.limits.answer, cancel)
	watch.arm()
	defer watch.stop()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	err = c.authorizeConnection(conn)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close() // it is of no use
		return nil, transportError(ctx, err)
	}
	return c.endWith(conn), nil
}

// CloseIdle closes the connections that nobody uses.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// past is a deadline that ends what is under way on a connection.
var past = time.Unix(1, 0)

// authorizeConnection sends the token and reads the answer, and nothing of what comes after it.
func (c *Client) authorizeConnection(conn net.Conn) error {
	_, err := fmt.Fprintf(conn, "POST /authorize HTTP/1.1\r\nHost: envd\r\n%s: %s\r\nContent-Length: 0\r\n\r\n", headerToken, c.currentToken())
	if err != nil {
		return err
	}
	read := bufio.NewReader(io.LimitReader(conn, maxHeader+maxAnswer))
	resp, err := http.ReadResponse(read, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // the connection is what counts
	switch {
	case resp.StatusCode != http.StatusNoContent:
		return statusError(resp)
	case read.Buffered() > 0:
		return errors.New("the guest says more than it was asked")
	}
	return nil
}

// tunnelled is a connection that ends with its client.
type tunnelled struct {
	net.Conn
	stop func() bool
	once sync.Once
	err  error
}

func (c *Client) endWith(conn net.Conn) *tunnelled {
	t := &tunnelled{Conn: conn}
	t.stop = context.AfterFunc(c.ctx, t.end)
	return t
}

// end makes what is under way fail too: some connections wait for the guest's end after a Close.
func (t *tunnelled) end() {
	_ = t.SetDeadline(past)
	t.once.Do(func() { t.err = t.Conn.Close() })
}

// Close ends the connection.
func (t *tunnelled) Close() error {
	t.stop()
	t.end()
	return t.err
}

// CloseWrite tells the guest that nothing more comes, where the connection can; otherwise it does nothing.
func (t *tunnelled) CloseWrite() error {
	if half, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
