package http_test

import (
	"bytes"
	"io"
	stdhttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	owntest "github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
)

var modified = time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)

func at(offset time.Duration) string { return modified.Add(offset).Format(http.TimeFormat) }

// answer is what matters of one.
type answer struct {
	Status                                      int
	Length, Range, Modified, Type, Accept, Body string
}

// theirs and ours serve the same content, by the standard library and by this package.
func theirs(content, method, name, value string) answer {
	r := httptest.NewRequest(method, "/", nil)
	r.Header.Set(name, value)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "a/b")
	stdhttp.ServeContent(w, r, "", modified, bytes.NewReader([]byte(content)))
	h := w.Header()
	length := h.Get("Content-Length")
	if w.Code == stdhttp.StatusPreconditionFailed && method == "GET" {
		length = "0" // as its server adds
	}
	return answer{w.Code, length, h.Get("Content-Range"), h.Get("Last-Modified"), h.Get("Content-Type"), h.Get("Accept-Ranges"), w.Body.String()}
}

func ours(t *testing.T, content, method, name, value string) answer {
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "a/b")
		http.ServeContent(w, r, modified, bytes.NewReader([]byte(content)))
	})
	got := owntest.Ask(t, serve, method, "/", http.Header{name: {value}}, bytes.NewReader(nil))
	h := got.Header
	return answer{got.Status, h.Get("Content-Length"), h.Get("Content-Range"), h.Get("Last-Modified"), h.Get("Content-Type"), h.Get("Accept-Ranges"), got.Body.String()}
}

// Where the standard library serves no more than this package, both say the same.
func TestServeContent(t *testing.T) {
	requests := map[string][]string{
		"X-None": {""},
		"Range": {
			"bytes=0-3", "bytes=3-", "bytes=-4", "bytes=-400", "bytes=9-9", "bytes=9-900", "bytes=0-", "bytes= 1-2",
		},
		"If-Modified-Since":   {at(0), at(time.Hour), at(-time.Hour), "yesterday"},
		"If-Unmodified-Since": {at(0), at(time.Hour), at(-time.Hour), "tomorrow"},
		"If-None-Match":       {"*", `"tag"`},
		"If-Match":            {"*", `"tag"`},
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, content := range []string{"0123456789", ""} {
			for name, values := range requests {
				for _, value := range values {
					if content == "" && strings.HasPrefix(value, "bytes=-") {
						continue // the standard library answers "bytes 0--1/0"
					}
					if diff := cmp.Diff(theirs(content, method, name, value), ours(t, content, method, name, value)); diff != "" {
						t.Errorf("%s of %q with %s: %s (-standard library +ours)\n%s", method, content, name, value, diff)
					}
				}
			}
		}
	}
}

func TestRangesThatAreNone(t *testing.T) {
	for value, want := range map[string]int{
		"bytes=10-": 416, "bytes=-0": 416, "bytes=3-2": 200, "bytes=a-b": 200, "bytes=1": 200, "items=0-1": 200,
		"bytes=0-1,3-4": 200, "bytes=-": 200, "bytes=--1": 200, "bytes=+1-2": 200, "bytes=99999999999999999999-": 200,
	} {
		got := ours(t, "0123456789", "GET", "Range", value)
		if got.Status != want || want == 200 && got.Body != "0123456789" || want == 416 && got.Range != "bytes */10" {
			t.Errorf("%s: %+v", value, got)
		}
	}
}

func TestIfRange(t *testing.T) {
	for condition, want := range map[string]string{at(0): "01", at(time.Second): "0123456789", `"tag"`: "0123456789"} {
		serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, modified, bytes.NewReader([]byte("0123456789")))
		})
		got := owntest.Ask(t, serve, "GET", "/", http.Header{"Range": {"bytes=0-1"}, "If-Range": {condition}}, bytes.NewReader(nil))
		if got.Body.String() != want {
			t.Errorf("%s: %q", condition, &got.Body)
		}
	}
}

func TestServeMux(t *testing.T) {
	mux := http.NewServeMux()
	say := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text+r.PathValue("port")) }
	}
	mux.HandleFunc("GET /files", say("get"))
	mux.HandleFunc("POST /files", say("post"))
	mux.HandleFunc("GET /ports/{port}", say("port "))
	mux.HandleFunc("/any", say("any"))
	for request, want := range map[[2]string]string{
		{"GET", "/files"}: "get", {"POST", "/files?x=/y"}: "post", {"GET", "/ports/80"}: "port 80", {"PUT", "/any"}: "any",
		{"GET", "/ports/"}: "404", {"GET", "/ports/80/x"}: "404", {"GET", "/ports"}: "404", {"GET", "/files/"}: "404", {"GET", "/"}: "404",
		{"GET", "//files"}: "404", {"GET", "/ports/%2e"}: "port .",
		{"PUT", "/files"}: "405 GET, HEAD, POST", {"POST", "/ports/1"}: "405 GET, HEAD",
	} {
		got := owntest.Ask(t, mux, request[0], request[1], nil, bytes.NewReader(nil))
		text := got.Body.String()
		switch got.Status {
		case 404:
			text = "404"
		case 405:
			text = "405 " + got.Header.Get("Allow")
		}
		if text != want {
			t.Errorf("%v: %q, want %q", request, text, want)
		}
	}
	if got := owntest.Ask(t, mux, "HEAD", "/files", nil, bytes.NewReader(nil)); got.Status != 200 || got.Body.Len() > 0 {
		t.Errorf("HEAD: %d %q", got.Status, &got.Body)
	}
}

func TestMaxBytesReader(t *testing.T) {
	for size, whole := range map[int]bool{0: true, 9: true, 10: true, 11: false, 100: false} {
		data, err := io.ReadAll(http.MaxBytesReader(bytes.NewReader(make([]byte, size)), 10))
		if (err == nil) != whole || len(data) != min(size, 10) {
			t.Errorf("%d bytes: %d, %v", size, len(data), err)
		}
	}
}
