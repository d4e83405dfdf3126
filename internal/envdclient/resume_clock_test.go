package envdclient

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// sleepy is a guest that takes its time, and notes how late each time is that it is sent.
type sleepy struct {
	wake, answer time.Duration // until it takes a connection, and until it answers

	mu   sync.Mutex
	lags map[string]time.Duration // by path
}

func (g *sleepy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct{ Timestamp time.Time }
	_ = json.NewDecoder(r.Body).Decode(&body)
	g.mu.Lock()
	g.lags[r.URL.Path] = time.Since(body.Timestamp)
	g.mu.Unlock()
	if r.URL.Path != pathResume {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	time.Sleep(g.answer)
	_, _ = io.WriteString(w, `{"ok":true,"steps":[`+allSteps+`]}`)
}

// TestResumeClock: a guest is sent the time of the moment when its connection is there, and once more where it was slow to set it.
func TestResumeClock(t *testing.T) {
	const wake = 2 * time.Second
	for name, guest := range map[string]*sleepy{
		"wakes slowly": {wake: wake}, "answers slowly": {answer: 2 * clockLag}, "slow altogether": {wake: wake, answer: 2 * clockLag},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest.lags = map[string]time.Duration{}
			client := New(guest.listen(t), "secret")
			defer client.Close()
			if _, err := client.Resume(t.Context(), Resume{Init: Init{Token: "new"}}); err != nil {
				t.Fatal(err)
			}
			if lag := guest.lags[pathResume]; lag < 0 || lag > wake/2 {
				t.Errorf("the time was late by %v", lag)
			}
			if lag, again := guest.lags["/init"]; guest.answer > 0 && !again || lag < 0 || lag > wake/2 {
				t.Errorf("the time was sent once more: %v, late by %v", again, lag)
			}
		})
	}
}

// listen returns how the guest is reached.
func (g *sleepy) listen(t *testing.T) func(context.Context) (net.Conn, error) {
	l, err := net.Listen("unix", t.TempDir()+"/guest")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: g}
	go func() { _ = server.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = server.Close() })
	return func(ctx context.Context) (net.Conn, error) {
		time.Sleep(g.wake)
		return (&net.Dialer{}).DialContext(ctx, "unix", l.Addr().String())
	}
}
