package http1_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	stdhttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/serve"
)

// client speaks HTTP/1.1 by hand.
type client struct {
	*testing.T
	net.Conn
	reader *bufio.Reader
}

func dial(t *testing.T, s *serve.Server) *client {
	t.Helper()
	conn, err := net.Dial("tcp", httptest.Serve(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &client{T: t, Conn: conn, reader: bufio.NewReader(conn)}
}

func (c *client) send(text string) {
	c.Helper()
	if _, err := io.WriteString(c.Conn, text); err != nil {
		c.Fatal(err)
	}
}

// answer reads one.
func (c *client) answer(method string) (*stdhttp.Response, string) {
	c.Helper()
	resp, err := stdhttp.ReadResponse(c.reader, &stdhttp.Request{Method: method})
	if err != nil {
		c.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	return resp, string(body)
}

func (c *client) ask(request string) (*stdhttp.Response, string) {
	c.Helper()
	c.send(request)
	method, _, _ := strings.Cut(request, " ")
	return c.answer(method)
}

// closed checks that nothing more comes.
func (c *client) closed() {
	c.Helper()
	if rest, err := io.ReadAll(c.reader); len(rest) > 0 || err != nil {
		c.Errorf("%q comes, %v", rest, err)
	}
}

// echo answers with what it was asked.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%s %s %s %q %d %v", r.Method, r.URL, r.Host, body, r.ContentLength, err)
})

func handle(f func(w http.ResponseWriter, r *http.Request)) *serve.Server {
	return httptest.Server(http.HandlerFunc(f))
}

func TestRequests(t *testing.T) {
	const host = "Host: envd\r\n"
	for request, want := range map[string]string{
		"GET / HTTP/1.1\r\n" + host + "\r\n":                          `200 GET / envd "" 0 <nil>`,
		"GET /a?b=c HTTP/1.1\r\nhost:envd:1 \r\n\r\n":                 `200 GET /a?b=c envd:1 "" 0 <nil>`,
		"GET http://other/a HTTP/1.1\r\n" + host + "\r\n":             `200 GET http://other/a other "" 0 <nil>`,
		"GET / HTTP/1.0\r\n\r\n":                                      `200 GET /  "" 0 <nil>`,
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc": `200 POST / envd "abc" 3 <nil>`,
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n02;x=y\r\nde\r\n0\r\n\r\n": `200 POST / envd "abcde" -1 <nil>`,
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTrailer: x\r\n\r\n":     `200 POST / envd "a" -1 <nil>`,
		"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 60<<10) + "\r\n\r\n":                           `200 GET / envd "" 0 <nil>`,
		"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 65<<10) + "\r\n\r\n":                           "431 ",
		"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", http.MaxFields) + "\r\n":                        "431 ",
		"GET / HTTP/1.1\r\n\r\n":                                                                                   "400 ",
		"GET / HTTP/1.1\r\n" + host + host + "\r\n":                                                                "400 ",
		"GET / HTTP/1.1\r\nHost: a b\r\n\r\n":                                                                      "400 ",
		"GET / HTTP/1.1\n" + host + "\r\n":                                                                         "400 ",
		"GET / HTTP/1.1\r\n" + host + "\n\r\n":                                                                     "400 ",
		"GET / HTTP/2.0\r\n" + host + "\r\n":                                                                       "505 ",
		"GET / HTTP/1.10\r\n" + host + "\r\n":                                                                      "505 ",
		"GET  / HTTP/1.1\r\n" + host + "\r\n":                                                                      "400 ",
		"GET /\r\n" + host + "\r\n":                                                                                "400 ",
		"G@T / HTTP/1.1\r\n" + host + "\r\n":                                                                       "400 ",
		"GET a HTTP/1.1\r\n" + host + "\r\n":                                                                       "400 ",
		"GET /\x00 HTTP/1.1\r\n" + host + "\r\n":                                                                   "400 ",
		"GET / HTTP/1.1\r\n" + host + "X : y\r\n\r\n":                                                              "400 ",
		"GET / HTTP/1.1\r\n" + host + "X: y\r\n folded\r\n\r\n":                                                    "400 ",
		"GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n":                                                            "400 ",
		"GET / HTTP/1.1\r\n" + host + ": y\r\n\r\n":                                                                "400 ",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\nabc":                                             "400 ",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3, 3\r\n\r\nabc":                                           "400 ",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc":                         "400 ",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 9223372036854775808\r\n\r\nabc":                            "400 ",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":          "400 ",
		"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                               "400 ",
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n":                         "501 ",
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "501 ",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nExpect: magic\r\n\r\nabc":                             "417 ",
	} {
		c := dial(t, httptest.Server(echo))
		resp, body := c.ask(request)
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); !strings.HasPrefix(got, want) {
			t.Errorf("%.100q: %q, want %q", request, got, want)
		}
		if resp.StatusCode != 200 {
			c.closed()
		}
		_ = c.Close()
	}
}

// A body that is no such is an error of its reader, and the end of the connection.
func TestMalformedBodies(t *testing.T) {
	for _, body := range []string{
		"x\r\n", "-1\r\n", "+1\r\na\r\n0\r\n\r\n", "0x1\r\na\r\n", "1_0\r\n", "\r\n", "1\r\nab\r\n0\r\n\r\n", "1\r\na\n0\r\n\r\n", "1\na\r\n0\r\n\r\n",
		"8000000000000000\r\n", "10000000000000001\r\n", "1;" + strings.Repeat("x", 1000) + "\r\na\r\n0\r\n\r\n",
		"0\r\n" + strings.Repeat("a: b\r\n", 1000) + "\r\n", "0\r\n0\r\n\r\n", "1;\r\r\na\r\n0\r\n\r\n",
	} {
		c := dial(t, httptest.Server(echo))
		_, text := c.ask("POST / HTTP/1.1\r\nHost: envd\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
		if !strings.HasSuffix(text, "malformed chunked encoding") {
			t.Errorf("%.40q: %q", body, text)
		}
		c.closed()
	}
}

func TestRequestsOneAfterTheOther(t *testing.T) {
	c := dial(t, httptest.Server(echo))
	const get, post = "GET /1 HTTP/1.1\r\nHost: envd\r\n\r\n", "POST /2 HTTP/1.1\r\nHost: envd\r\nContent-Length: 3\r\n\r\nabc"
	for range 3 {
		if _, body := c.ask(get); body != `GET /1 envd "" 0 <nil>` {
			t.Errorf("%q", body)
		}
	}
	c.send(get + post + get + post) // without waiting
	for _, want := range []string{"GET /1", "POST /2", "GET /1", "POST /2"} {
		if _, body := c.answer("GET"); !strings.HasPrefix(body, want) {
			t.Errorf("%q, want %q", body, want)
		}
	}
	if resp, _ := c.ask("GET / HTTP/1.1\r\nHost: envd\r\nConnection: x, Close\r\n\r\n"); !resp.Close {
		t.Error("the answer does not say that it is the last")
	}
	c.closed()
}

// What a handler does not read must not become the next request.
func TestUnreadBodies(t *testing.T) {
	s := handle(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
	for size, most := range map[int]bool{10: true, 200 << 10: true, 300 << 10: false} {
		for name, body := range map[string]string{
			"length":  fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)),
			"chunked": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, strings.Repeat("x", size)),
		} {
			c := dial(t, s)
			resp, body := c.ask("POST /1 HTTP/1.1\r\nHost: envd\r\n" + body)
			if body != "/1" {
				t.Errorf("%s, %d: %q", name, size, body)
			}
			// How much is left of a body without a length is known only if all of it is there when the answer begins.
			if stays := most && (name == "length" || size == 10); stays && resp.Close || !most && !resp.Close {
				t.Errorf("%s, %d: close: %v", name, size, resp.Close)
			}
			if resp.Close {
				c.closed()
				continue
			}
			if _, body := c.ask("GET /2 HTTP/1.1\r\nHost: envd\r\n\r\n"); body != "/2" {
				t.Errorf("%s, %d: then %q", name, size, body)
			}
		}
	}
}

func TestExpect(t *testing.T) {
	s := handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(403)
			return
		}
		echo(w, r)
	})
	const expect = "Expect: 100-continue\r\nHost: envd\r\nContent-Length: 3\r\n\r\n"
	c := dial(t, s)
	c.send("POST / HTTP/1.1\r\n" + expect)
	if line, err := c.reader.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = c.reader.Discard(2)
	if _, body := c.ask("abc"); !strings.Contains(body, `"abc"`) {
		t.Errorf("%q", body)
	}
	if resp, _ := c.ask("POST /refuse HTTP/1.1\r\n" + expect); resp.StatusCode != 403 || !resp.Close {
		t.Errorf("%v", resp)
	}
	c.closed()
}

func TestAnswers(t *testing.T) {
	big := strings.Repeat("0123456789", 20<<10)
	s := handle(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/small":
			_, _ = io.WriteString(w, "sm")
			_, _ = io.WriteString(w, "all")
		case "/big":
			_, _ = io.WriteString(w, "head")
			_, _ = io.WriteString(w, big)
		case "/sized":
			w.Header().Set("Content-Length", "5")
			if n, err := io.WriteString(w, "sized"); n != 5 || err != nil {
				t.Error(n, err)
			}
			if _, err := io.WriteString(w, "more"); !errors.Is(err, http.ErrContentLength) {
				t.Error(err)
			}
		case "/none":
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Error(err)
			}
		case "/trailer":
			w.Header().Set("Trailer", "Wrenn-Count")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("Wrenn-Count", "1")
		case "/strange":
			w.Header()["X-Value"] = []string{"a\r\nX-Injected: b"}
			w.Header()["X Name"] = []string{"a"}
			w.Header()["Transfer-Encoding"] = []string{"gzip"}
		}
	})
	c := dial(t, s)
	for _, test := range []struct {
		request, body string
		length        int64
		header        string // of the answer, as "Name: value"
	}{
		{"GET /small", "small", 5, "Content-Length: 5"},
		{"GET /big", "head" + big, -1, ""},
		{"GET /sized", "sized", 5, ""},
		{"GET /none", "", 0, "Content-Length: "},
		{"HEAD /sized", "", 5, "Content-Length: 5"},
		{"HEAD /big", "", -1, "Content-Length: "},
		{"GET /strange", "", 0, "X-Value: a  X-Injected: b"},
		{"GET /strange", "", 0, "X-Injected: "},
		{"GET /strange", "", 0, "X Name: "},
		{"GET /trailer", "body", -1, "Wrenn-Count: "},
	} {
		resp, body := c.ask(test.request + " HTTP/1.1\r\nHost: envd\r\n\r\n")
		name, value, _ := strings.Cut(test.header, ": ")
		if body != test.body || resp.ContentLength != test.length || name != "" && resp.Header.Get(name) != value {
			t.Errorf("%s: %.40q, %d, %v", test.request, body, resp.ContentLength, resp.Header)
		}
		if _, err := stdhttp.ParseTime(resp.Header.Get("Date")); err != nil {
			t.Errorf("%s: %v", test.request, err)
		}
		if test.request == "GET /trailer" && resp.Trailer.Get("Wrenn-Count") != "1" {
			t.Errorf("trailer: %v", resp.Trailer)
		}
	}
}

// An answer that is not whole must not look so.
func TestBrokenAnswers(t *testing.T) {
	s := handle(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/short":
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "abc")
			_ = http.Flush(w)
		case "/abort":
			_, _ = io.WriteString(w, "abc")
			_ = http.Flush(w)
			panic(http.ErrAbortHandler)
		case "/panic":
			panic("it is the test's")
		}
	})
	for path, want := range map[string]error{"/short": io.ErrUnexpectedEOF, "/abort": io.ErrUnexpectedEOF, "/panic": io.ErrUnexpectedEOF} {
		c := dial(t, s)
		c.send("GET " + path + " HTTP/1.1\r\nHost: envd\r\n\r\n")
		resp, err := stdhttp.ReadResponse(c.reader, nil)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A flushed part arrives while the handler waits, and the handler hears of a caller that goes away.
func TestCallerGoesAway(t *testing.T) {
	gone := make(chan error, 1)
	s := handle(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		_ = http.Flush(w)
		<-r.Context().Done()
		gone <- context.Cause(r.Context())
	})
	for _, body := range []string{"", "Content-Length: 3\r\n"} {
		c := dial(t, s)
		if body == "" {
			c.send("GET / HTTP/1.1\r\nHost: envd\r\n\r\n")
		} else {
			c = dial(t, handle(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadAll(r.Body)
				s.Handler.ServeHTTP(w, r)
			}))
			c.send("POST / HTTP/1.1\r\nHost: envd\r\nContent-Length: 3\r\n\r\nabc")
		}
		for !strings.Contains(c.line(), "first") {
		}
		_ = c.Close()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func (c *client) line() string {
	c.Helper()
	line, err := c.reader.ReadString('\n')
	if err != nil {
		c.Fatal(err)
	}
	return line
}

func TestHijack(t *testing.T) {
	s := handle(func(w http.ResponseWriter, _ *http.Request) {
		conn, early, err := http.Hijack(w)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		rest, err := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "raw %s %v", string(early)+string(rest), err)
	})
	for name, early := range map[string]string{"nothing": "", "something": "early ", "much": strings.Repeat("early ", 1000)} {
		c := dial(t, s)
		c.send("GET / HTTP/1.1\r\nHost: envd\r\n\r\n" + early)
		c.send("late")
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c.reader); string(got) != "raw "+early+"late <nil>" || err != nil {
			t.Errorf("%s: %.100q, %v", name, got, err)
		}
	}
}

// Whoever sends a head slowly, or nothing, does not keep the connection.
func TestTimeouts(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "a part of a line": "GET / HT", "a part of a head": "GET / HTTP/1.1\r\nHost:", "nothing after a request": "GET / HTTP/1.1\r\nHost: envd\r\n\r\n",
	} {
		s := httptest.Server(echo)
		s.HeaderTimeout, s.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond
		c := dial(t, s)
		c.send(text)
		if strings.HasSuffix(text, "\r\n\r\n") {
			c.answer("GET")
		}
		c.closed()
		_ = name
	}
}

// Closing the server ends connections that wait, and handlers' contexts.
func TestClose(t *testing.T) {
	waits := make(chan struct{})
	s := handle(func(_ http.ResponseWriter, r *http.Request) {
		close(waits)
		<-r.Context().Done()
	})
	c, idle := dial(t, s), dial(t, s)
	c.send("GET / HTTP/1.1\r\nHost: envd\r\n\r\n")
	<-waits
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, conn := range []*client{c, idle} {
		if _, err := io.ReadAll(conn.reader); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
	}
}

// One connection too many is closed, and there is room again when one ends.
func TestMaxConnections(t *testing.T) {
	s := httptest.Server(echo)
	s.MaxConnections = 1
	first := dial(t, s)
	first.ask("GET / HTTP/1.1\r\nHost: envd\r\n\r\n")
	second, err := net.Dial("tcp", first.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if n, err := second.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("the second connection is served")
	}
	_ = first.Close()
	for ended := false; !ended; {
		conn, err := net.Dial("tcp", first.RemoteAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: envd\r\n\r\n")
		n, _ := conn.Read(make([]byte, 1))
		ended = n > 0
		_ = conn.Close()
	}
}
