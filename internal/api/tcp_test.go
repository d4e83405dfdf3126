package api

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// tcpServer is a server "in the sandbox". It returns its port.
func tcpServer(t *testing.T, handle func(*net.TCPConn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				handle(conn.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func (r *rig) dialTCP(sb string, port int) *terminalClient {
	r.t.Helper()
	url := fmt.Sprintf("%s/v1/sandboxes/%s/tcp/%d", r.server.URL, sb, port)
	conn, _, err := websocket.Dial(within(r.t), url, &websocket.DialOptions{HTTPHeader: http.Header{auth.Header: {string(r.key)}}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(1 << 20)
	return &terminalClient{t: r.t, conn: conn}
}

// closed is how the connection ended.
func (c *terminalClient) closed() websocket.StatusCode {
	c.t.Helper()
	kind, data, err := c.conn.Read(within(c.t))
	if err == nil {
		c.t.Fatalf("%v %q after the end", kind, data)
	}
	return websocket.CloseStatus(err)
}

const end = `{"type":"end"}`

// Either side ends its sending while the other goes on.
func TestTCP(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	large := strings.Repeat("0123456789", 100_000)
	c := r.dialTCP(sb, tcpServer(t, func(conn *net.TCPConn) {
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(all)
	}))
	for rest := large; rest != ""; rest = rest[100_000:] {
		c.send(websocket.MessageBinary, rest[:100_000])
	}
	c.send(websocket.MessageText, end)
	if m := c.next(); m.Type != "end" || string(c.output) != large {
		t.Errorf("%+v after %d bytes of %d", m, len(c.output), len(large))
	}
	if status := c.closed(); status != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", status)
	}
	heard := make(chan string, 1)
	c = r.dialTCP(sb, tcpServer(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "bye")
		_ = conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		heard <- string(all)
	}))
	if m := c.next(); m.Type != "end" || string(c.output) != "bye" {
		t.Errorf("%+v after %q", m, c.output)
	}
	c.send(websocket.MessageBinary, "late")
	c.send(websocket.MessageText, end)
	if got := <-heard; got != "late" {
		t.Errorf("the server heard %q", got)
	}
	if status := c.closed(); status != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", status)
	}
}

// What breaks is no end: neither the server nor the client takes it for one.
func TestTCPBreaks(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	reset := tcpServer(t, func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	c := r.dialTCP(sb, reset)
	c.send(websocket.MessageBinary, "x")
	if m := c.next(); m.Type != "error" || m.Code != string(models.Unavailable) {
		t.Errorf("%+v", m)
	}
	if status := c.closed(); status != websocket.StatusInternalError {
		t.Errorf("closed with %d", status)
	}
	gone := make(chan struct{})
	waiting := tcpServer(t, func(conn *net.TCPConn) {
		_, _ = io.Copy(io.Discard, conn)
		close(gone)
	})
	c = r.dialTCP(sb, waiting)
	c.send(websocket.MessageBinary, "x")
	_ = c.conn.CloseNow()
	<-gone
	stay := make(chan struct{})
	defer close(stay)
	for _, messages := range [][]string{{"nonsense"}, {`{"type":"resize"}`}, {end, end}} {
		c = r.dialTCP(sb, tcpServer(t, func(*net.TCPConn) { <-stay }))
		for _, message := range messages {
			c.send(websocket.MessageText, message)
		}
		if m := c.next(); m.Type != "error" || m.Code != string(models.Invalid) {
			t.Errorf("%q: %+v", messages, m)
		}
	}
}

func TestTCPRefused(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	port := tcpServer(t, func(*net.TCPConn) {})
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="}
	for _, c := range []struct {
		path   string
		header []string
		status int
		code   models.Code
	}{
		{fmt.Sprintf("%s/tcp/%d", sb, port), nil, http.StatusUpgradeRequired, models.Invalid},
		{fmt.Sprintf("%s/tcp/%d", sb, port), append(upgrade, auth.Header, ""), http.StatusUnauthorized, models.Unauthenticated},
		{sb + "/tcp/1", upgrade, http.StatusConflict, models.Precondition},
		{sb + "/tcp/0", upgrade, http.StatusBadRequest, models.Invalid},
		{"sb-00000000/tcp/80", upgrade, http.StatusNotFound, models.NotFound},
	} {
		a := decoded[errorAnswer](t, r.call("GET", "/v1/sandboxes/"+c.path, "", c.header...), c.status)
		if a.Error.Code != c.code {
			t.Errorf("%s: %+v", c.path, a.Error)
		}
	}
}
