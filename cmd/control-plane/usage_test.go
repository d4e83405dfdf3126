package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// lagoDouble refuses the second event of each batch until it is told to take all, and keeps what it was asked.
type lagoDouble struct {
	mu    sync.Mutex // guards what follows
	takes bool
	asked string
}

func (l *lagoDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked += r.Header.Get("Authorization") + " " + string(body)
	if !l.takes && strings.Count(string(body), "transaction_id") > 1 {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"error_details":{"1":{"code":["not_\u001b[31mfound"]}}}`) // a client that has gone needs no answer
	}
}

// TestUsageCommands: a control plane that has a Lago delivers to it; what is refused is shown, and tried again.
func TestUsageCommands(t *testing.T) {
	dbs := setUp(t)
	command(t, "migrate", "up")
	account := strings.TrimSpace(command(t, "account", "create", "acme"))
	conn, err := pgx.Connect(t.Context(), dbs.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{
		`INSERT INTO sandboxes (id, account_id, name, template, vcpus, memory_mib, disk_mib, metadata, state, generation, reason, operation)
			VALUES ('sb-00000001', '%s', '', 'minimal', 1, 256, 512, '{}', 'stopped', 1, '', '')`,
		`INSERT INTO usage_periods (account_id, sandbox_id, kind, vcpus, memory_mib, begun_at, ended_at) VALUES ('%s', 'sb-00000001', 'running', 2, 512, '2026-03-01T10:00:00Z', '2026-03-01T10:00:10Z')`,
	} {
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(sql, account)); err != nil {
			t.Fatal(err)
		}
	}
	lago := &lagoDouble{}
	server := httptest.NewServer(lago)
	defer server.Close()
	cfg, err := config.LoadControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Agent, cfg.LagoURL, cfg.LagoAPIKey, cfg.LagoVCPUCode = "127.0.0.1:0", config.NoAgent, server.URL, "the-key", "cpu"
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, cfg, slog.New(slog.DiscardHandler)) }()

	has := func(text string) func() bool {
		return func() bool { return strings.Contains(command(t, "usage", "ls", "--json"), text) }
	}
	eventually(t, "one is refused", has(`{"state":"refused","number":1,"oldest":"2026-03-01T10:00:00Z"}`))
	eventually(t, "one is delivered", has(`{"state":"delivered","number":1,`))
	if out := command(t, "usage", "ls", "--state", "refused"); !strings.Contains(out, "sb-00000001.1772359200000000.") || !strings.Contains(out, `"code: not_\x1b[31mfound"`) {
		t.Errorf("usage ls --state refused printed %s", out)
	}
	for args, code := range map[string]models.Code{"ls --state lost": models.Invalid, "ls -n 0": models.Invalid, "retry nothing": models.NotFound} {
		if _, err := try(t, append([]string{"usage"}, strings.Fields(args)...)...); models.CodeOf(err) != code {
			t.Errorf("usage %s: %v, want %s", args, err, code)
		}
	}
	lago.mu.Lock()
	lago.takes = true
	lago.mu.Unlock()
	if out := command(t, "usage", "retry"); out != "tried again: 1\n" {
		t.Errorf("usage retry printed %q", out)
	}
	eventually(t, "both are delivered", has(`{"state":"delivered","number":2,`))
	if out := command(t, "usage", "ls", "--state", "delivered", "--json"); !strings.Contains(out, `"value":"20",`) || !strings.Contains(out, `"value":"5",`) {
		t.Errorf("usage ls --state delivered printed %s", out)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	lago.mu.Lock()
	defer lago.mu.Unlock()
	for _, part := range []string{"Bearer the-key ", `"code":"cpu"`, `"code":"memory_gib_seconds"`, `"external_subscription_id":"` + account + `"`} {
		if !strings.Contains(lago.asked, part) {
			t.Errorf("%s is not in what Lago was asked: %s", part, lago.asked)
		}
	}
}
