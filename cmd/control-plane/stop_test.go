package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// replica is a control plane that serves until stop, which returns once it has begun to end; ended waits for that.
type replica struct {
	client      *wrenn.Client
	url         string
	stop, ended func()
}

func startReplica(t *testing.T, cfg config.ControlPlane, secret string) *replica {
	t.Helper()
	log := &lines{}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, cfg, slog.New(slog.NewTextHandler(log, nil))) }()
	eventually(t, "it serves", func() bool { return log.url() != "" })
	r := &replica{url: log.url(), stop: cancel, ended: func() {
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * time.Minute): // far below the drain
			t.Fatal("it does not end")
		}
	}}
	var err error
	if r.client, err = wrenn.NewClient(wrenn.Options{BaseURL: r.url, APIKey: secret, MaxRetries: -1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready", func() bool {
		ready, err := r.client.Ready(t.Context())
		return err == nil && ready.Status == "ready"
	})
	return r
}

// TestStop: a replica that is told to end takes nothing new, finishes what it carries out and answers it, has who waits or follows go on at another one, and leaves no trace of itself.
// The drain is longer than anybody would wait: nothing holds it up but what is under way.
func TestStop(t *testing.T) {
	dbs := setUp(t)
	secret := strings.TrimSpace(command(t, "seed", "--key-file", filepath.Join(t.TempDir(), "k")))
	sim := hostsim.Start(t)
	begun, proceed := make(chan struct{}), make(chan struct{})
	sim.OnCreate(func(_ context.Context, req *pb.CreateSandboxRequest) error {
		if req.GetEnv()["SLOW"] != "" {
			close(begun)
			<-proceed
		}
		return nil
	}, nil)
	cfg, err := config.LoadControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Agent, cfg.DrainTimeout = "127.0.0.1:0", sim.Address(), time.Hour
	ending, other := startReplica(t, cfg, secret), startReplica(t, cfg, secret)
	first, err := ending.client.CreateSandbox(t.Context(), wrenn.CreateSandboxRequest{Template: "minimal"})
	if err != nil {
		t.Fatal(err)
	}
	output, err := ending.client.RunProcess(t.Context(), first.ID, wrenn.ProcessRequest{Shell: "echo begun; sleep 1000"})
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	following := follow(t, ending, secret)
	slow := make(chan error, 1)
	go func() {
		_, err := ending.client.CreateSandbox(t.Context(), wrenn.CreateSandboxRequest{Template: "minimal", Env: map[string]string{"SLOW": "yes"}})
		slow <- err
	}()
	<-begun
	command(t, "account", "pool", "dev", "--sandboxes", "2")
	waiting := make(chan error, 1)
	go func() {
		_, err := ending.client.CreateSandbox(t.Context(), wrenn.CreateSandboxRequest{Template: "minimal", Wait: 10 * time.Minute})
		waiting <- err
	}()
	count := counter(t, dbs.PostgresURL)
	eventually(t, "somebody waits for room", func() bool { return count("accounts WHERE awaited_until > clock_timestamp()") == 1 })

	ending.stop()
	if err := <-waiting; wrenn.CodeOf(err) != wrenn.Unavailable {
		t.Errorf("who waits for room: %v", err)
	}
	if err := <-following; err != nil {
		t.Errorf("who follows events: %v", err)
	}
	eventually(t, "it takes no connection", func() bool {
		_, err := ending.client.GetSandbox(t.Context(), first.ID)
		return err != nil
	})
	if sb, err := other.client.GetSandbox(t.Context(), first.ID); err != nil || sb.State != wrenn.Running {
		t.Errorf("at the other one: %+v, %v", sb, err)
	}
	close(proceed)
	if err := <-slow; err != nil {
		t.Errorf("a create under way: %v", err)
	}
	ending.ended()
	if n := count("replicas"); n != 1 {
		t.Errorf("then %d are known to be alive", n)
	}
	other.stop()
	other.ended()
}

// counter returns a function that counts rows.
func counter(t *testing.T, url string) func(of string) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func(of string) (n int) {
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+of).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// follow follows the events of the account at one replica, and tells how that ends.
func follow(t *testing.T, r *replica, secret string) <-chan error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", secret)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(io.Discard, resp.Body)
		ended <- err
	}()
	return ended
}
