package http2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdhttp "net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
)

// library returns the standard library's client of a server of h.
func library(t *testing.T, h http.HandlerFunc) (*stdhttp.Client, string) {
	t.Helper()
	transport := &stdhttp.Transport{Protocols: &stdhttp.Protocols{}, DisableCompression: true}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &stdhttp.Client{Transport: transport}, "http://" + httptest.Serve(t, httptest.Server(h))
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%s %s %d %d %q %v", r.Method, r.URL, r.ProtoMajor, r.ContentLength, body, err)
}

func ask(t *testing.T, client *stdhttp.Client, method, url string, body io.Reader) (*stdhttp.Response, string) {
	t.Helper()
	r, err := stdhttp.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestRequests(t *testing.T) {
	client, url := library(t, echo)
	for _, test := range []struct {
		method, path string
		body         io.Reader
		want         string
	}{
		{"GET", "/a?b=c", nil, `GET /a?b=c 2 0 "" <nil>`},
		{"POST", "/", strings.NewReader("abc"), `POST / 2 3 "abc" <nil>`},
		{"POST", "/", iotest.OneByteReader(strings.NewReader("abc")), `POST / 2 -1 "abc" <nil>`},
		{"HEAD", "/", nil, ""},
	} {
		if resp, got := ask(t, client, test.method, url+test.path, test.body); got != test.want || resp.ProtoMajor != 2 {
			t.Errorf("%s: %q, want %q", test.method, got, test.want)
		}
	}
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	client, url := library(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(204)
		case "/trailer":
			w.Header().Set("Trailer", "Wrenn-Count")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("Wrenn-Count", "1")
		case "/long":
			w.Header().Set("X-Long", long)
			w.Header().Set("Connection", "close")
		case "/short":
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "abc")
			_ = http.Flush(w)
		case "/abort":
			_, _ = io.WriteString(w, "abc")
			_ = http.Flush(w)
			panic(http.ErrAbortHandler)
		}
	})
	if resp, body := ask(t, client, "GET", url+"/none", nil); resp.StatusCode != 204 || body != "" {
		t.Error(resp, body)
	}
	if resp, body := ask(t, client, "GET", url+"/trailer", nil); resp.Trailer.Get("Wrenn-Count") != "1" || body != "body" || resp.Header.Get("Wrenn-Count") != "" {
		t.Error(resp, resp.Trailer, body)
	}
	if resp, body := ask(t, client, "GET", url+"/long", nil); resp.Header.Get("X-Long") != long || resp.Header.Get("Connection") != "" || body != "" {
		t.Error("the long header is lost, or the connection's is not")
	}
	for _, path := range []string{"/short", "/abort"} {
		resp, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: the answer looks whole", path)
		}
		_ = resp.Body.Close()
	}
}

// Much more than the windows goes both ways at once.
func TestLargeBodies(t *testing.T) {
	client, url := library(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20/16*5)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			resp, err := client.Post(url, "", bytes.NewReader(want))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if got, err := io.ReadAll(resp.Body); !bytes.Equal(got, want) || err != nil {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
	all.Wait()
}

// A body that a handler does not read holds up no other, and does no harm when the handler has returned.
func TestUnreadBodies(t *testing.T) {
	blocked, release := make(chan struct{}), make(chan struct{})
	client, url := library(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/blocked" {
			close(blocked)
			<-release
			return
		}
		_, _ = io.WriteString(w, "ignored")
	})
	var held sync.WaitGroup
	held.Go(func() { ask(t, client, "POST", url+"/blocked", bytes.NewReader(make([]byte, 1<<20))) })
	<-blocked
	for range 40 { // more than the connection's window
		if _, got := ask(t, client, "POST", url, bytes.NewReader(make([]byte, 60<<10))); got != "ignored" {
			t.Fatalf("%q", got)
		}
	}
	close(release)
	held.Wait()
}

// A handler hears of a caller that goes away, whether it waits, reads or writes.
func TestCallerGoesAway(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	client, url := library(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.Flush(w)
		begun <- struct{}{}
		var err error
		switch r.URL.Path {
		case "/wait":
			<-r.Context().Done()
			err = r.Context().Err()
		case "/read":
			_, err = io.Copy(io.Discard, r.Body)
		case "/write":
			for err == nil {
				_, err = w.Write(make([]byte, 1<<20))
			}
		}
		ended <- err
	})
	for _, path := range []string{"/wait", "/read", "/write"} {
		ctx, cancel := context.WithCancel(t.Context())
		body, feed := io.Pipe()
		r, err := stdhttp.NewRequestWithContext(ctx, "POST", url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		<-begun
		cancel()
		_ = resp.Body.Close()
		_ = feed.CloseWithError(errors.New("the caller goes away"))
		if err := <-ended; err == nil {
			t.Errorf("%s: the handler does not hear of it", path)
		}
	}
}

func TestHijackIsRefused(t *testing.T) {
	client, url := library(t, func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := http.Hijack(w); !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
	})
	ask(t, client, "GET", url, nil)
}

func TestLargeHead(t *testing.T) {
	client, url := library(t, echo)
	for name, header := range map[string]stdhttp.Header{
		"size": {"X": {strings.Repeat("x", 40<<10), strings.Repeat("y", 40<<10)}}, "count": {"X": make([]string, 300)},
	} {
		r, err := stdhttp.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		resp, err := client.Do(r)
		if name == "size" && err != nil { // the library heeds what it was told
			continue
		}
		if err != nil || resp.StatusCode != stdhttp.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: %v, %v", name, resp, err)
			continue
		}
		_ = resp.Body.Close()
	}
	ask(t, client, "GET", url, nil) // on the same connection
}
