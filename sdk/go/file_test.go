package wrenn

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestFilesGoBothWays(t *testing.T) {
	path := "/tmp/ä b&c=d?e#f%"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/sandboxes/"+testID+"/files" || r.URL.Query().Get("path") != path || r.URL.Query().Get("user") != "root" ||
			(r.Method == http.MethodPut) != (r.URL.Query().Get("mode") == "0750") {
			t.Errorf("request %s", r.URL)
		}
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "content")
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != "content" || r.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("body %q, %v, %v", b, err, r.Header)
		}
		answer(w, 200, `{"path":"/tmp/x","size":7}`)
	})
	written, err := c.WriteFile(t.Context(), testID, path, strings.NewReader("content"), AsUser("root"), WithMode(0o750))
	if err != nil || *written != (WrittenFile{"/tmp/x", 7}) {
		t.Errorf("%+v, %v", written, err)
	}
	r, err := c.ReadFile(t.Context(), testID, path, AsUser("root"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}

// A reader that knows its length says so to the service.
func TestLengthOfAFile(t *testing.T) {
	lengths := make(chan int64, 1)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		lengths <- r.ContentLength
		answer(w, 200, `{"path":"/x","size":7}`)
	})
	for _, of := range []struct {
		r    io.Reader
		want int64
	}{
		{strings.NewReader("content"), 7},
		{measured{strings.NewReader("content")}, 7},
		{struct{ io.Reader }{strings.NewReader("content")}, -1},
	} {
		if _, err := c.WriteFile(t.Context(), testID, "/x", of.r); err != nil {
			t.Fatal(err)
		}
		if got := <-lengths; got != of.want {
			t.Errorf("%T: length %d, want %d", of.r, got, of.want)
		}
	}
}

// measured is a reader of a kind that net/http does not know.
type measured struct {
	*strings.Reader
}

func TestEmptyFileIsWritten(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err != nil || len(b) != 0 {
			t.Errorf("%q, %v", b, err)
		}
		answer(w, 200, `{"path":"/x","size":0}`)
	})
	for _, r := range []io.Reader{nil, strings.NewReader("")} {
		if written, err := c.WriteFile(t.Context(), testID, "/x", r); err != nil || written.Size != 0 {
			t.Errorf("%+v, %v", written, err)
		}
	}
}

// zeros never ends; it counts what was taken.
type zeros struct{ n int64 }

func (z *zeros) Read(b []byte) (int, error) {
	z.n += int64(len(b))
	return len(b), nil
}

func TestRefusedUploadIsNotSent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 404, `{"error":{"code":"not_found","message":"no such sandbox","request_id":"r"}}`)
	})
	c.http.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute // the server is not slow, the machine may be
	z := &zeros{}
	if _, err := c.WriteFile(t.Context(), testID, "/x", z); CodeOf(err) != NotFound {
		t.Errorf("%v", err)
	}
	if z.n > 0 {
		t.Errorf("%d bytes were read for an upload that was refused", z.n)
	}
}

func TestUploadStopsWithItsContextAndItsReader(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	ctx, cancel := context.WithCancel(t.Context())
	reader := readerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	if _, err := c.WriteFile(ctx, testID, "/x", reader); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	want := errors.New("unreadable")
	if _, err := c.WriteFile(t.Context(), testID, "/x", readerFunc(func([]byte) (int, error) { return 0, want })); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestCutOffDownloadIsAnError(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	r, err := c.ReadFile(t.Context(), testID, "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err == nil || string(b) != "half" {
		t.Errorf("%q, %v", b, err)
	}
}
