package hostclient_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const sb = "sb-00000001"

func dial(t *testing.T) (*hostclient.Client, *hostsim.Host) {
	t.Helper()
	sim := hostsim.Start(t)
	c, err := hostclient.Dial(sim.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, sim
}

// running returns a client of a host with one sandbox.
func running(t *testing.T) (*hostclient.Client, *hostsim.Host) {
	t.Helper()
	c, sim := dial(t)
	made, err := c.Create(t.Context(), hostclient.NewSandbox{ID: sb, Template: "minimal", Size: models.Size{VCPUs: 1, MemoryMiB: 256}})
	if err != nil || made.ID != sb || made.State != hostclient.Running || len(made.Steps) != 1 || made.CreatedAt.IsZero() {
		t.Fatalf("Create = %+v, %v", made, err)
	}
	return c, sim
}

func TestSandbox(t *testing.T) {
	c, sim := running(t)
	if got, err := c.Sandbox(t.Context(), sb); err != nil || got.State != hostclient.Running {
		t.Errorf("Sandbox = %+v, %v", got, err)
	}
	sim.Put(sb, pb.SandboxState_SANDBOX_STATE_FAILED, "panic")
	if got, err := c.Sandbox(t.Context(), sb); err != nil || got.State != hostclient.Failed || got.Reason != "panic" {
		t.Errorf("Sandbox = %+v, %v", got, err)
	}
	for range 2 {
		if err := c.Destroy(t.Context(), sb, time.Second); err != nil {
			t.Error(err)
		}
	}
	_, err := c.Sandbox(t.Context(), sb)
	if models.CodeOf(err) != models.NotFound || !grpcerr.FromAgent(err) {
		t.Errorf("Sandbox of what is gone: %v", err)
	}
	sim.Kill()
	_, err = c.Sandbox(t.Context(), sb)
	if models.CodeOf(err) != models.Unavailable || grpcerr.FromAgent(err) {
		t.Errorf("Sandbox without an agent: %v", err)
	}
}

func TestInfo(t *testing.T) {
	c, sim := dial(t)
	info, err := c.Info(t.Context())
	if err != nil || info.ID != "host-0000abcd" || len(info.Templates) != 2 || info.Templates[0].Default.DiskMiB != 1024 {
		t.Errorf("Info = %+v, %v", info, err)
	}
	sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = "../x" })
	if _, err := c.Info(t.Context()); err == nil {
		t.Error("a host with a malformed id was taken")
	}
}

func TestWatch(t *testing.T) {
	c, sim := running(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, synced, err := w.Next(); err != nil || synced || got.ID != sb {
		t.Errorf("first %+v, %v, %v", got, synced, err)
	}
	if _, synced, err := w.Next(); err != nil || !synced {
		t.Errorf("second: synced %v, %v", synced, err)
	}
	sim.Lose(sb, false)
	if got, synced, err := w.Next(); err != nil || synced || got.State != hostclient.Gone {
		t.Errorf("third %+v, %v, %v", got, synced, err)
	}
	sim.Kill()
	if _, _, err := w.Next(); err == nil {
		t.Error("a watch outlives its agent")
	}
}

// guest returns a client of the envd at the other end of tunnels, which has no token.
func guest(t *testing.T, c *hostclient.Client) *envdclient.Client {
	t.Helper()
	g := envdclient.New(func(ctx context.Context) (net.Conn, error) { return c.Tunnel(ctx, sb) }, "")
	t.Cleanup(g.Close)
	return g
}

func TestTunnel(t *testing.T) {
	c, sim := running(t)
	g := guest(t, c)
	path := filepath.Join(t.TempDir(), "x")
	content := make([]byte, 3<<20)
	rand.Read(content)
	if _, err := g.WriteFile(t.Context(), path, "", bytes.NewReader(content), -1); err != nil {
		t.Fatal(err)
	}
	f, err := g.ReadFile(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(content), err)
	}
	if now, ever := sim.Tunnels(); now != 1 || ever != 1 {
		t.Errorf("%d tunnels are open of %d, want one that is used again", now, ever)
	}
	sim.Lose(sb, true)
	if _, err := g.Health(t.Context()); models.CodeOf(err) != models.NotFound {
		t.Errorf("a tunnel to a sandbox that is gone: %v", err)
	}
}

// TestTunnelOverTCP: an agent on another machine has calls and tunnels at one address, too.
func TestTunnelOverTCP(t *testing.T) {
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	agent := grpc.NewServer()
	pb.RegisterHostAgentServiceServer(agent, pb.UnimplementedHostAgentServiceServer{})
	server := tunnel.NewServer(agent, func(_ context.Context, t *tunnel.Tunnel) error {
		ours, guest := net.Pipe()
		go func() { _, _ = io.Copy(guest, guest) }() // ends with ours
		return t.Carry(ours)
	}, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	c, err := hostclient.Dial(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Tunnel(t.Context(), sb)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Error(err)
	}
	got := make([]byte, len("hello"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("%q came back, %v", got, err)
	}
	if _, err := c.Info(t.Context()); models.CodeOf(err) != models.Internal { // as of a call that nobody implements
		t.Errorf("Info: %v", err)
	}
	_ = conn.Close()
	_ = c.Close()
	server.GracefulStop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestWarmTemplates: a template is warm where the host has a golden snapshot of it as it is now.
func TestWarmTemplates(t *testing.T) {
	c, sim := dial(t)
	sim.Describe(func(i *pb.GetHostInfoResponse) {
		i.GoldenSnapshots = []*pb.GoldenSnapshot{{Template: "minimal", Digest: "sha256:01"}, {Template: "python311", Digest: "sha256:of-before"}}
	})
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, template := range info.Templates {
		if template.Warm != (template.Name == "minimal") {
			t.Errorf("%s: warm %v", template.Name, template.Warm)
		}
	}
}

// TestTunnelNeedsTheToken: without the agent's authorization the guest answers nothing.
func TestTunnelNeedsTheToken(t *testing.T) {
	c, sim := running(t)
	g := guest(t, c)
	if _, err := g.Metrics(t.Context()); err != nil {
		t.Error(err)
	}
	if err := sim.Guest().Init(t.Context(), envdclient.Init{Token: "another"}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Metrics(t.Context()); models.CodeOf(err) != models.Internal {
		t.Errorf("a tunnel of before the token changed: %v", err)
	}
}

func TestAgentDiesUnderATunnel(t *testing.T) {
	c, sim := running(t)
	g := guest(t, c)
	e, err := g.Exec(t.Context(), envdclient.Command{Cmd: "sleep", Args: []string{"600"}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Next(); err != nil { // it has started
		t.Fatal(err)
	}
	sim.Kill()
	if _, err := e.Next(); models.CodeOf(err) != models.Unavailable {
		t.Errorf("the agent's end during a program: %v", err)
	}
	if _, err := c.Tunnel(t.Context(), sb); models.CodeOf(err) != models.Unavailable {
		t.Errorf("a tunnel without an agent: %v", err)
	}
}

// TestCloseEndsTunnels, also one that nobody closes.
func TestCloseEndsTunnels(t *testing.T) {
	c, sim := running(t)
	conn, err := c.Tunnel(t.Context(), sb)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a tunnel outlives its client")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if now, _ := sim.Tunnels(); now == 0 {
			break
		} else if time.Now().After(end) {
			t.Fatal("the agent keeps the tunnel")
		}
	}
}
