package wrenn

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestProcessStreamGoesOnWhereItWas: after a connection that broke, and after one that went silent.
func TestProcessStreamGoesOnWhereItWas(t *testing.T) {
	answers := []string{
		"id: 0\nevent: started\ndata: {\"pid\":7,\"offset\":0}\n\nid: 2\nevent: stdout\ndata: {\"data\":\"aGk=\"}\n\n", // breaks off
		"id: 2\nevent: started\ndata: {\"pid\":7,\"offset\":2}\n\nid: 4\nevent: stderr\ndata: {\"data\":\"aG8=\"}\n\n", // goes silent
		"id: 4\nevent: started\ndata: {\"pid\":7,\"offset\":4}\n\nid: 9\nevent: gap\ndata: {\"bytes\":5}\n\nid: 9\nevent: exit\ndata: {\"exit_code\":3}\n\n",
	}
	n := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		want := []string{"POST  ", "GET offset=2 2", "GET offset=4 4"}[n]
		if got := fmt.Sprintf("%s %s %s", r.Method, r.URL.RawQuery, r.Header.Get("Last-Event-ID")); got != want {
			t.Errorf("request %q, not %q", got, want)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, answers[n])
		w.(http.Flusher).Flush()
		if n++; n == 2 {
			<-r.Context().Done()
		}
	})
	c.silence = 200 * time.Millisecond
	s, err := c.RunProcess(t.Context(), testID, ProcessRequest{Shell: "x"})
	if err != nil || s.PID != 7 {
		t.Fatalf("%+v, %v", s, err)
	}
	defer s.Close()
	var stdout, stderr bytes.Buffer
	exit, err := s.Copy(&stdout, &stderr)
	var missing *MissingOutputError
	if !errors.As(err, &missing) || missing.Bytes != 5 || exit.ExitCode != 3 || stdout.String() != "hi" || stderr.String() != "ho" || s.Offset() != 9 {
		t.Errorf("%+v, %v, %q, %q, offset %d", exit, err, stdout.String(), stderr.String(), s.Offset())
	}
}

func TestProcessThatIsGoneIsNotAwaited(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "event: started\ndata: {\"pid\":7,\"offset\":0}\n\n")
			return
		}
		answer(w, 404, `{"error":{"code":"not_found","message":"there is no such process","request_id":"r"}}`)
	})
	s, err := c.RunProcess(t.Context(), testID, ProcessRequest{Shell: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Copy(nil, nil); CodeOf(err) != NotFound {
		t.Errorf("%v", err)
	}
}

func TestPartOfAFile(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Range") {
		case "bytes=2-4":
			w.Header().Set("Content-Type", "application/octet-stream")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, "234")
		default:
			answer(w, 200, `{"path":"/x","items":[]}`)
		}
	})
	f, err := c.ReadFileRange(t.Context(), testID, "/x", 2, 3)
	if err != nil || f.Size != 3 {
		t.Fatalf("%+v, %v", f, err)
	}
	f.Close()
	if _, err := c.ReadFile(t.Context(), testID, "/x"); CodeOf(err) != Invalid {
		t.Errorf("a directory was read as a file: %v", err)
	}
}
