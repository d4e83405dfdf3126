package server_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/proto/parts"
)

// exchangeOn sends one request on a connection and reads its answer.
func exchangeOn(t *testing.T, conn net.Conn, r *bufio.Reader, request string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// connect dials envd.
func (e *envd) connect() *net.TCPConn {
	e.Helper()
	conn, err := net.Dial("tcp", e.addr)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// echoServer listens on an address of the guest's own and handles each connection.
func echoServer(t *testing.T, address string, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("listen on %s: %v", address, err)
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
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// connectPort opens a connection to a port, and sends early with the request. The TCP connection is the client's end below it.
func (e *envd) connectPort(port, early string) (*parts.Conn, *net.TCPConn) {
	e.Helper()
	conn := e.connect()
	r := bufio.NewReader(conn)
	if early != "" {
		early = string(binary.BigEndian.AppendUint32(nil, uint32(len(early)))) + early
	}
	resp := exchangeOn(e.T, conn, r, "GET /ports/"+port+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp-parts\r\n\r\n"+early)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != parts.Protocol {
		e.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	begun, _ := r.Peek(r.Buffered())
	return parts.New(conn, begun), conn
}

// Bytes pass in both directions, also those that came with the request, and after one side's end.
func TestPort(t *testing.T) {
	e := startDebug(t)
	want := numbered(5 << 20)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		port := echoServer(t, address, func(conn *net.TCPConn) {
			all, _ := io.ReadAll(conn) // answers once the client has ended its side
			_, _ = fmt.Fprintf(conn, "%d:", len(all))
			_, _ = conn.Write(all)
		})
		before := measure(t)
		conn, _ := e.connectPort(port, string(want[:100]))
		if _, err := conn.Write(want[100:]); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, append(fmt.Appendf(nil, "%d:", len(want)), want...)) {
			t.Errorf("%s: %d bytes came back, or others, error %v", address, len(got), err)
		}
		_ = conn.Close()
		noMoreThan(t, before)
	}
}

// A server that ends its side first still hears the client.
func TestPortServerEndsFirst(t *testing.T) {
	e := startDebug(t)
	heard := make(chan string, 1)
	port := echoServer(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "bye")
		_ = conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		heard <- string(all)
	})
	before := measure(t)
	conn, _ := e.connectPort(port, "")
	if got, err := io.ReadAll(conn); string(got) != "bye" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := io.WriteString(conn, "late"); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	if got := <-heard; got != "late" {
		t.Errorf("the server heard %q", got)
	}
	_ = conn.Close()
	noMoreThan(t, before)
}

// When either side goes away the other's connection is closed, and nothing is left: a client that closes its connection
// has not ended its sending, it has gone.
func TestPortEndsWithEitherSide(t *testing.T) {
	e := startDebug(t)
	ended := make(chan error, 1)
	port := echoServer(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if line == "reset\n" {
			_ = conn.SetLinger(0)
			return
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		ended <- err
	})
	before := measure(t)
	conn, _ := e.connectPort(port, "reset\n")
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after the server's reset: %v", err)
	}
	for _, reset := range []bool{true, false} {
		_, client := e.connectPort(port, "wait\n")
		if reset {
			_ = client.SetLinger(0)
		}
		_ = client.CloseWrite() // a vsock's end, if no more follows
		if reset {
			_ = client.Close()
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a byte came from nowhere")
			}
		case <-time.After(patience):
			t.Fatal("the server never saw its client go")
		}
	}
	eventually(t, func() error {
		if now := measure(t); now.goroutines > before.goroutines {
			return fmt.Errorf("%d goroutines, there were %d", now.goroutines, before.goroutines)
		}
		return nil
	})
}

func TestPortErrors(t *testing.T) {
	e := startDebug(t)
	l := listen(t)
	_, closed, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {parts.Protocol}}
	for _, test := range []struct {
		path   string
		header http.Header
		status int
		text   string
	}{
		{"/ports/" + closed, upgrade, 502, `{"code":502,"message":"nothing listens on port ` + closed},
		{"/ports/0", upgrade, 400, `"code":400`},
		{"/ports/65536", upgrade, 400, `"code":400`},
		{"/ports/http", upgrade, 400, `"code":400`},
		{"/ports/80", nil, 400, "Upgrade"},
		{"/ports/80", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}, 400, "Upgrade: tcp-parts"},
	} {
		if status, text := e.request("GET", test.path, "", test.header); status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("%s: %d %s", test.path, status, text)
		}
	}
}

// The server's end is that of the connections to ports too.
func TestCloseEndsPorts(t *testing.T) {
	e := startDebug(t)
	over := make(chan struct{})
	defer close(over)
	port := echoServer(t, "127.0.0.1:0", func(*net.TCPConn) { <-over })
	conn, _ := e.connectPort(port, "x")
	half, _ := e.connectPort(port, "x")
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // lets envd see that; nothing depends on it
	if err := e.server.Close(); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("after the server was closed: %v", err)
	}
}
