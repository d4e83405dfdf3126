package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	stdhttp "net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/http1"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
)

// recording is a connection on which everything that the peer will say is there, and nothing after it.
type recording struct {
	io.Reader
	out bytes.Buffer
}

func (r *recording) Write(p []byte) (int, error)      { return r.out.Write(p) }
func (r *recording) Close() error                     { return nil }
func (r *recording) LocalAddr() net.Addr              { return nil }
func (r *recording) RemoteAddr() net.Addr             { return nil }
func (r *recording) SetDeadline(time.Time) error      { return nil }
func (r *recording) SetReadDeadline(time.Time) error  { return nil }
func (r *recording) SetWriteDeadline(time.Time) error { return nil }

// seen is what a server makes of one request.
type seen struct {
	Method, Target, Host, Body string
	Header                     map[string][]string
	Whole                      bool // whether the body was
}

// FuzzRequests: what is taken for a request is one to the standard library too, and the same; and every answer is well-formed.
func FuzzRequests(f *testing.F) {
	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b HTTP/1.0\r\nX: y\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: u\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var requests []seen
		server := httptest.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			requests = append(requests, seen{r.Method, r.URL.String(), r.Host, string(body), r.Header, err == nil})
			_, _ = w.Write(body)
		}))
		conn := &recording{Reader: bytes.NewReader(data)}
		http1.Serve(context.Background(), conn, nil, &server.Service, func() { t.Error("the connection is taken") })
		theirs := bufio.NewReader(bytes.NewReader(data))
		for _, got := range requests {
			want := readWithLibrary(t, theirs)
			if !got.Whole {
				want.Body, want.Whole = got.Body, false // what is refused in the middle of a body need not be so elsewhere
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("of %q (-standard library +ours)\n%s", data, diff)
			}
			if !got.Whole {
				break
			}
		}
		checkAnswers(t, &conn.out, requests)
	})
}

func readWithLibrary(t *testing.T, from *bufio.Reader) seen {
	r, err := stdhttp.ReadRequest(from)
	if err != nil {
		t.Errorf("the standard library refuses it: %v", err)
		return seen{}
	}
	body, err := io.ReadAll(r.Body)
	return seen{r.Method, r.URL.String(), r.Host, string(body), r.Header, err == nil}
}

// checkAnswers reads what was sent: an answer for each request, and maybe a refusal at the end.
func checkAnswers(t *testing.T, sent *bytes.Buffer, requests []seen) {
	from := bufio.NewReader(sent)
	for i := 0; ; i++ {
		if _, err := from.Peek(1); err != nil {
			if i < len(requests) {
				t.Errorf("%d answers to %d requests", i, len(requests))
			}
			return
		}
		method := "GET"
		if i < len(requests) {
			method = requests[i].Method
		}
		resp, err := stdhttp.ReadResponse(from, &stdhttp.Request{Method: method})
		if err == nil && resp.StatusCode == stdhttp.StatusContinue {
			i--
			continue
		}
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		switch {
		case err != nil:
			t.Errorf("answer %d: %v", i, err)
		case i < len(requests) && method != "HEAD" && string(body) != requests[i].Body:
			t.Errorf("answer %d: %q, want %q", i, body, requests[i].Body)
		case i >= len(requests) && resp.StatusCode < 400:
			t.Errorf("answer %d: %v", i, resp)
		}
	}
}
