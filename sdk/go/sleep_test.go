package wrenn

import (
	"net/http"
	"strings"
	"testing"
)

func TestPauseAndResume(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		state := strings.Replace(sandboxJSON, `"running"`, `"paused"`, 1)
		if strings.HasSuffix(r.URL.Path, "/resume") {
			state = strings.Replace(sandboxJSON, `"generation"`, `"auto_resume":true,"resumed":{"at":"2026-01-02T03:04:05.678Z","steps":[{"step":"hook:a","kept":false,"output":"hi","ms":1.5}]},"generation"`, 1)
		}
		answer(w, http.StatusOK, state)
	})
	if s, err := c.PauseSandbox(t.Context(), testID); err != nil || s.State != Paused || s.Resumed != nil {
		t.Errorf("%+v, %v", s, err)
	}
	s, err := c.ResumeSandbox(t.Context(), testID)
	if err != nil || s.State != Running || !s.AutoResume || s.Resumed.Steps[0] != (CertificateStep{Step: "hook:a", Output: "hi", Milliseconds: 1.5}) {
		t.Errorf("%+v, %v", s, err)
	}
	if got := strings.Join(asked, ", "); got != "POST /v1/sandboxes/sb-01234567/pause, POST /v1/sandboxes/sb-01234567/resume" {
		t.Errorf("asked %s", got)
	}
	if _, err := c.PauseSandbox(t.Context(), "../x"); CodeOf(err) != Invalid {
		t.Errorf("pause of what is no id: %v", err)
	}
}
