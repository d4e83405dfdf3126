package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"

	"github.com/coder/websocket"
)

const (
	// maxTCPMessage is the longest message that is accepted, in bytes.
	maxTCPMessage = 1 << 20
	// maxTCPWrite is the most that one message carries, well below what the service takes.
	maxTCPWrite = 64 << 10
)

// TCPConn is a connection to a port of a sandbox. One goroutine may read while another writes; either direction ends
// without the other.
type TCPConn struct {
	conn *websocket.Conn
	ctx  context.Context // until Close
	stop context.CancelFunc

	message io.Reader // that is being read
	err     error     // why nothing more is read

	writing sync.Mutex // guards over, and the order of messages
	over    bool
}

// DialTCP connects to a TCP port that something in a sandbox listens on. ctx bounds the connecting alone. The caller
// must call Close. It is never repeated.
func (c *Client) DialTCP(ctx context.Context, id string, port int) (*TCPConn, error) {
	if port < 1 || port > math.MaxUint16 {
		return nil, invalid("%d is no port: 1 to %d", port, math.MaxUint16)
	}
	path, err := sandboxPath(id, "tcp", strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	conn, resp, err := websocket.Dial(ctx, c.base+path, &websocket.DialOptions{
		HTTPClient: c.http,
		HTTPHeader: http.Header{"X-API-Key": {c.opts.APIKey}, "User-Agent": {c.opts.UserAgent}},
	})
	if err != nil {
		return nil, c.dialError(resp, err)
	}
	conn.SetReadLimit(maxTCPMessage)
	t := &TCPConn{conn: conn}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Read reads what the server sends. It is io.EOF when that has ended its sending; any other error means that the rest is lost.
func (t *TCPConn) Read(b []byte) (int, error) {
	for t.err == nil {
		if t.message == nil {
			t.message, t.err = t.next()
			continue
		}
		n, err := t.message.Read(b)
		switch {
		case errors.Is(err, io.EOF):
			t.message = nil
		case err != nil:
			t.err = fmt.Errorf("read connection: %w", err)
		}
		if n > 0 || len(b) == 0 {
			return n, nil
		}
	}
	return 0, t.err
}

// next begins to read a message with data.
func (t *TCPConn) next() (io.Reader, error) {
	kind, r, err := t.conn.Reader(t.ctx)
	if err != nil {
		return nil, fmt.Errorf("read connection: %w", err)
	}
	if kind == websocket.MessageBinary {
		return r, nil
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read connection: %w", err)
	}
	var control struct{ Type string }
	switch err := json.Unmarshal(data, &control); {
	case err != nil:
		return nil, fmt.Errorf("decode message: %w", err)
	case control.Type == "error":
		return nil, streamError(data)
	case control.Type == "end":
		t.conn.CloseRead(t.ctx) // answers pings from now on
		return nil, io.EOF
	}
	return nil, nil // for newer clients
}

// Write sends b to the server.
func (t *TCPConn) Write(b []byte) (sent int, err error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	for sent < len(b) {
		n := min(len(b)-sent, maxTCPWrite)
		if err := t.send(websocket.MessageBinary, b[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// CloseWrite tells the server that no more comes. What it sends can still be read.
func (t *TCPConn) CloseWrite() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	err := t.send(websocket.MessageText, []byte(`{"type":"end"}`))
	t.over = true
	return err
}

// send is called with writing held.
func (t *TCPConn) send(kind websocket.MessageType, b []byte) error {
	if t.over {
		return fmt.Errorf("write connection: %w", io.ErrClosedPipe)
	}
	if err := t.conn.Write(t.ctx, kind, b); err != nil {
		return fmt.Errorf("write connection: %w", err)
	}
	return nil
}

// Close ends the connection at once. Unless both directions have ended, the server finds it broken off.
func (t *TCPConn) Close() error {
	t.stop()
	_ = t.conn.CloseNow() // it may be closed already
	return nil
}
