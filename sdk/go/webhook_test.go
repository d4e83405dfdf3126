package wrenn

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWebhooks(t *testing.T) {
	const hook = `{"id":"wh-00000001","url":"https://example.com/","events":["sandbox.running"],"enabled":true,"state":"failing","failure":"x","failing_since":"2026-01-02T03:04:05.678Z","next_attempt_at":null,"old_secret_until":null,"created_at":"2026-01-02T03:04:05.678Z"`
	const delivery = `{"id":"msg-0000000000000001","type":"webhook.ping","event_id":null,"sandbox_id":null,"state":"pending","attempts":1,"status":500,"error":"x","last_attempt_at":null,"next_attempt_at":null,"created_at":"2026-01-02T03:04:05.678Z"}`
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.String()+" "+string(b))
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/deliveries"):
			answer(w, http.StatusOK, `{"items":[`+delivery+`],"next_cursor":null}`)
		case r.URL.Path == "/v1/webhooks" && r.Method == http.MethodGet:
			answer(w, http.StatusOK, `{"items":[`+hook+`}],"next_cursor":null}`)
		case strings.HasSuffix(r.URL.Path, "/ping"), strings.HasSuffix(r.URL.Path, "/retry"):
			answer(w, http.StatusAccepted, delivery)
		default:
			answer(w, http.StatusOK, hook+`,"secret":"whsec_x"}`)
		}
	})
	const id = "wh-00000001"
	off := false
	for name, do := range map[string]func() (*Webhook, error){
		"create": func() (*Webhook, error) {
			return c.CreateWebhook(t.Context(), "https://example.com/", []string{"sandbox.running"})
		},
		"get":    func() (*Webhook, error) { return c.Webhook(t.Context(), id) },
		"change": func() (*Webhook, error) { return c.ChangeWebhook(t.Context(), id, WebhookChange{Enabled: &off}) },
		"rotate": func() (*Webhook, error) { return c.RotateWebhook(t.Context(), id, time.Minute) },
	} {
		if w, err := do(); err != nil || w.ID != id || w.Failure != "x" || w.FailingSince.IsZero() || w.Secret != "whsec_x" {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
	for name, do := range map[string]func() (*Delivery, error){
		"ping":  func() (*Delivery, error) { return c.PingWebhook(t.Context(), id) },
		"retry": func() (*Delivery, error) { return c.RetryDelivery(t.Context(), id, "msg-0000000000000001") },
	} {
		if d, err := do(); err != nil || d.ID != "msg-0000000000000001" || d.Status != 500 || !d.NextAttemptAt.IsZero() {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	if err := c.DeleteWebhook(t.Context(), id); err != nil {
		t.Error(err)
	}
	for w, err := range c.Webhooks(t.Context()) {
		if err != nil || w.ID != id {
			t.Errorf("%+v, %v", w, err)
		}
	}
	for d, err := range c.Deliveries(t.Context(), id) {
		if err != nil || d.ID == "" {
			t.Errorf("%+v, %v", d, err)
		}
	}
	got := "\n" + strings.Join(asked, "\n") + "\n"
	for _, want := range []string{
		`POST /v1/webhooks {"url":"https://example.com/","events":["sandbox.running"]}`, "GET /v1/webhooks/wh-00000001 ", `PATCH /v1/webhooks/wh-00000001 {"enabled":false}`,
		`POST /v1/webhooks/wh-00000001/rotate {"grace_seconds":60}`, "POST /v1/webhooks/wh-00000001/ping ", "POST /v1/webhooks/wh-00000001/deliveries/msg-0000000000000001/retry ",
		"DELETE /v1/webhooks/wh-00000001 ", "GET /v1/webhooks?limit=200 ", "GET /v1/webhooks/wh-00000001/deliveries?limit=200 ",
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("not asked: %s; asked:%s", want, got)
		}
	}
	for _, err := range c.Deliveries(t.Context(), "../x") {
		if CodeOf(err) != Invalid {
			t.Errorf("what is no id: %v", err)
		}
	}
	if _, err := c.RetryDelivery(t.Context(), id, "../x"); CodeOf(err) != Invalid {
		t.Errorf("what is no delivery: %v", err)
	}
}

// TestVerifyWebhook with the example that libraries of Standard Webhooks are tested with.
func TestVerifyWebhook(t *testing.T) {
	const secret, at = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330
	const signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	body := []byte(`{"test": 2432232314}`)
	now := time.Unix(at, 0)
	header := func(change ...string) http.Header {
		h := http.Header{}
		h.Set("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
		h.Set("webhook-timestamp", "1614265330")
		h.Set("webhook-signature", signature)
		for i := 0; i < len(change); i += 2 {
			h.Set(change[i], change[i+1])
		}
		return h
	}
	for name, h := range map[string]http.Header{
		"as it was sent":           header(),
		"with another beside it":   header("webhook-signature", "v1,eA== "+signature),
		"with one of another kind": header("webhook-signature", signature+" v2,eA=="),
	} {
		if m, err := verifyWebhook(secret, h, body, DefaultTolerance, now.Add(time.Minute)); err != nil || m.ID != "msg_p5jXN8AQM9LWM0D4loKWxJek" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	for name, c := range map[string]struct {
		header http.Header
		body   string
		now    time.Time
	}{
		"another body":        {header(), `{"test": 2432232315}`, now},
		"another id":          {header("webhook-id", "msg_x"), string(body), now},
		"another time":        {header("webhook-timestamp", "1614265331"), string(body), now},
		"no time":             {header("webhook-timestamp", ""), string(body), now},
		"no signature":        {header("webhook-signature", ""), string(body), now},
		"an empty one":        {header("webhook-signature", "v1,"), string(body), now},
		"one of another kind": {header("webhook-signature", strings.Replace(signature, "v1", "v2", 1)), string(body), now},
		"an old one":          {header(), string(body), now.Add(DefaultTolerance + time.Second)},
		"one of the future":   {header(), string(body), now.Add(-DefaultTolerance - time.Second)},
	} {
		if m, err := verifyWebhook(secret, c.header, []byte(c.body), DefaultTolerance, c.now); !errors.Is(err, ErrNotSigned) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if _, err := VerifyWebhook(secret, header(), body); !errors.Is(err, ErrNotSigned) {
		t.Errorf("a message of 2021: %v", err)
	}
	if _, err := VerifyWebhookWithin(secret, header(), body, time.Since(now)+time.Hour); err != nil {
		t.Errorf("with much tolerance: %v", err)
	}
	for _, bad := range []string{"", "whsec_", "whsec_?"} {
		if _, err := VerifyWebhook(bad, header(), body); CodeOf(err) != Invalid {
			t.Errorf("secret %q: %v", bad, err)
		}
	}
	e, err := Message{Type: "sandbox.running", Data: []byte(`{"id":"7","sandbox_id":"sb-00000001","to":"running"}`)}.Event()
	if err != nil || e.SandboxID != "sb-00000001" || e.To != Running {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := (Message{Type: "webhook.ping"}).Event(); CodeOf(err) != Invalid {
		t.Errorf("a ping as an event: %v", err)
	}
}
