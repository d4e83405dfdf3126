package wrenn

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestLifecycleOnTheWire(t *testing.T) {
	const lifecycle = `{"auto_pause_after_seconds":600,"auto_hibernate_after_seconds":0,"auto_destroy_after_seconds":86400,"timeout_seconds":3600,"on_timeout":"pause",` +
		`"timeout_at":"2026-01-02T04:04:05Z","upcoming":[{"action":"pause","at":"2026-01-02T03:14:05Z","because":"auto_pause"}]}`
	var sent []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		sent = append(sent, r.Method+" "+r.URL.Path+" "+string(b))
		answer(w, http.StatusOK, strings.Replace(sandboxJSON, `"generation":3`, `"generation":3,"lifecycle":`+lifecycle, 1))
	})
	second, never := 1500*time.Millisecond, time.Duration(0)
	s, err := c.CreateSandbox(t.Context(), CreateSandboxRequest{Template: "minimal", Lifecycle: &LifecycleChange{AutoPauseAfter: &second, AutoDestroyAfter: &never}})
	want := Lifecycle{
		AutoPauseAfter: 10 * time.Minute, AutoDestroyAfter: 24 * time.Hour, Timeout: time.Hour, OnTimeout: PauseOnTimeout,
		TimeoutAt: time.Date(2026, 1, 2, 4, 4, 5, 0, time.UTC),
		Upcoming:  []Upcoming{{Action: "pause", At: time.Date(2026, 1, 2, 3, 14, 5, 0, time.UTC), Because: "auto_pause"}},
	}
	if err != nil || !reflect.DeepEqual(s.Lifecycle, want) {
		t.Errorf("%+v, %v", s, err)
	}
	if b, err := json.Marshal(s.Lifecycle); err != nil || string(b) != lifecycle {
		t.Errorf("again in JSON it is %s, %v", b, err)
	}
	if _, err := c.SetTimeout(t.Context(), testID, 90*time.Second); err != nil {
		t.Error(err)
	}
	if got, want := strings.Join(sent, "\n"), `POST /v1/sandboxes {"template":"minimal","lifecycle":{"auto_pause_after_seconds":2,"auto_destroy_after_seconds":0}}
PATCH /v1/sandboxes/sb-01234567 {"lifecycle":{"timeout_seconds":90}}`; got != want {
		t.Errorf("sent %s", got)
	}
	for _, err := range []error{
		func() error { _, err := c.SetTimeout(t.Context(), "../x", time.Hour); return err }(),
		func() error {
			_, err := c.SetLifecycle(t.Context(), testID, LifecycleChange{OnTimeout: "\xff"})
			return err
		}(),
	} {
		if CodeOf(err) != Invalid {
			t.Errorf("%v", err)
		}
	}
}
