package server_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
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

func (e *envd) dial() *net.TCPConn {
	e.Helper()
	conn, err := net.Dial("tcp", e.addr)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// An authorized connection needs no token, until that changes; others do, and a wrong token is wrong everywhere.
func TestAuthorizedConnection(t *testing.T) {
	e := start(t, server.Options{})
	e.init(`{"accessToken":"first"}`)
	conn := e.dial()
	r := bufio.NewReader(conn)
	status := func(method, path, header string) int {
		resp := exchangeOn(t, conn, r, method+" "+path+" HTTP/1.1\r\nHost: x\r\n"+header+"\r\n")
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for _, step := range []struct {
		method, path, header string
		want                 int
	}{
		{"GET", "/envs", "", 401},
		{"POST", "/authorize", "", 401},
		{"POST", "/authorize", "X-Access-Token: wrong\r\n", 401},
		{"GET", "/envs", "", 401},
		{"POST", "/authorize", "X-Access-Token: first\r\n", 204},
		{"GET", "/envs", "", 200},
		{"GET", "/envs", "X-Access-Token: wrong\r\n", 401},
		{"GET", "/envs", "X-Access-Token:\r\n", 401},
		{"POST", "/authorize", "", 204},
		{"GET", "/envs", "", 200},
		{"GET", "/files?path=/etc/passwd&username=root", "", 200},
		// A signature is checked, so that what is passed on for a stranger may do no more than it says.
		{"GET", "/files?path=/etc/passwd&username=root&signature=v1_x", "", 401},
		{"GET", "/files?path=/etc/passwd&username=root&signature=" + url.QueryEscape(sign("/etc/passwd", "read", "root", "first")), "", 200},
	} {
		if got := status(step.method, step.path, step.header); got != step.want {
			t.Errorf("%s %s with %q: %d, want %d", step.method, step.path, step.header, got, step.want)
		}
	}
	if got, _ := e.request("GET", "/envs", "", nil); got != 401 {
		t.Errorf("on another connection: %d", got)
	}
	again := func(token string, want int) {
		t.Helper()
		if got, _ := e.request("POST", "/init", `{"accessToken":"`+token+`"}`, http.Header{"X-Access-Token": {"first"}}); got != 204 {
			t.Fatalf("init: %d", got)
		}
		if got := status("GET", "/envs", ""); got != want {
			t.Errorf("after the token was set to %q: %d, want %d", token, got, want)
		}
	}
	again("first", 200)
	again("second", 401)
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

// connectPort opens a connection to a port, and sends early with the request.
func (e *envd) connectPort(port, early string) (*net.TCPConn, *bufio.Reader) {
	e.Helper()
	conn := e.dial()
	r := bufio.NewReader(conn)
	resp := exchangeOn(e.T, conn, r, "GET /ports/"+port+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"+early)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "tcp" {
		e.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	return conn, r
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
		conn, r := e.connectPort(port, string(want[:100]))
		if _, err := conn.Write(want[100:]); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
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
	conn, r := e.connectPort(port, "")
	if got, err := io.ReadAll(r); string(got) != "bye" || err != nil {
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

// When either side goes away the other's connection is closed, and nothing is left.
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
	_, r := e.connectPort(port, "reset\n")
	if _, err := r.ReadByte(); err == nil {
		t.Error("a byte came from nowhere")
	}
	conn, _ := e.connectPort(port, "wait\n")
	_ = conn.SetLinger(0)
	_ = conn.Close() // a reset
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a byte came from nowhere")
		}
	case <-time.After(patience):
		t.Fatal("the server never saw its client go")
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
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
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
	} {
		if status, text := e.request("GET", test.path, "", test.header); status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("%s: %d %s", test.path, status, text)
		}
	}
}

// The server's end is that of the connections to ports too.
func TestCloseEndsPorts(t *testing.T) {
	e := startDebug(t)
	port := echoServer(t, "127.0.0.1:0", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	_, r := e.connectPort(port, "x")
	if err := e.server.Close(); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := r.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("after the server was closed: %v", err)
	}
}
