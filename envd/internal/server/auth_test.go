package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
)

// wire is one connection to the server, on which requests follow each other.
type wire struct {
	*testing.T
	conn net.Conn
	read *bufio.Reader
}

func (e *envd) wire() *wire {
	e.Helper()
	conn, err := net.Dial("tcp", e.addr)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = conn.Close() })
	return &wire{e.T, conn, bufio.NewReader(conn)}
}

// ask makes a request and returns its status. token is left out when it is empty.
func (w *wire) ask(what, token, body string) int {
	w.Helper()
	method, path, _ := strings.Cut(what, " ")
	header := ""
	if token != "" {
		header = "X-Access-Token: " + token + "\r\n"
	}
	_, err := fmt.Fprintf(w.conn, "%s %s HTTP/1.1\r\nHost: envd\r\n%sContent-Length: %d\r\n\r\n%s", method, path, header, len(body), body)
	if err != nil {
		w.Fatal(err)
	}
	resp, err := http.ReadResponse(w.read, nil)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode
}

func (w *wire) wants(status int, what, token, body string) {
	w.Helper()
	if got := w.ask(what, token, body); got != status {
		w.Errorf("%s with the token %q: %d, want %d", what, token, got, status)
	}
}

// A connection is authorized by the token alone, for itself alone, and until another token is set.
func TestAuthorizedConnection(t *testing.T) {
	e := start(t, server.Options{})
	a, b := e.wire(), e.wire()
	a.wants(401, "POST /authorize", "first", "") // before there is a token
	e.init(`{"accessToken":"first"}`)
	a.wants(401, "GET /envs", "", "")
	a.wants(401, "POST /authorize", "", "")
	a.wants(401, "POST /authorize", "wrong", "")
	a.wants(401, "GET /envs", "", "")
	a.wants(204, "POST /authorize", "first", "")
	a.wants(200, "GET /envs", "", "")
	a.wants(200, "GET /envs", "first", "")
	a.wants(401, "GET /envs", "wrong", "") // a token that is there must be right
	a.wants(204, "POST /authorize", "", "")
	// A signature is checked, so that what is passed on for a stranger may do no more than it says.
	a.wants(200, "GET /files?path=/etc/passwd&username=root", "", "")
	a.wants(401, "GET /files?path=/etc/passwd&username=root&signature=v1_x", "", "")
	a.wants(200, "GET /files?path=/etc/passwd&username=root&signature="+url.QueryEscape(sign("/etc/passwd", "read", "root", "first")), "", "")
	b.wants(401, "GET /envs", "", "")

	a.wants(401, "POST /init", "", `{"accessToken":"stolen"}`)
	a.wants(401, "POST /resume", "", `{"accessToken":"stolen","timestamp":"2026-01-01T00:00:00Z","entropy":"`+strings.Repeat("A", 64)+`"}`)
	a.wants(401, "POST /scrub", "", "")
	a.wants(204, "POST /init", "first", `{"accessToken":"first"}`)
	a.wants(200, "GET /envs", "", "")
	a.wants(204, "POST /init", "first", `{"accessToken":"second"}`)
	a.wants(401, "GET /envs", "", "")
	a.wants(401, "POST /authorize", "", "")
	a.wants(204, "POST /authorize", "second", "")
	a.wants(200, "GET /envs", "", "")
}

// The same in HTTP/2, where the requests of a connection go on side by side.
func TestAuthorizedConnectionH2C(t *testing.T) {
	e := start(t, server.Options{})
	e.init(`{"accessToken":"first"}`)
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	dials := 0
	e.http = &http.Client{Transport: &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
	for _, c := range []struct {
		what   string
		header http.Header
		status int
	}{
		{"GET /envs", nil, 401}, {"POST /authorize", token("first"), 204}, {"GET /envs", nil, 200}, {"GET /envs", token("wrong"), 401},
	} {
		method, path, _ := strings.Cut(c.what, " ")
		if status, _ := e.request(method, path, "", c.header); status != c.status {
			t.Errorf("%s: %d, want %d", c.what, status, c.status)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections were made", dials)
	}
}
