// Package hostclient is the control plane's typed view of a host agent.
//
// Every error is coded (see grpcerr.Decode). Calls that the agent answers within moments have a
// deadline of their own; those that take longer end with their ctx.
package hostclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const (
	// promptLimit bounds calls that involve no guest.
	promptLimit = 5 * time.Second
	// maxMessage is room for a list of every sandbox of a full host: 16,384 of some 1 KiB.
	maxMessage = 64 << 20
)

// Client talks to one host agent. All methods may be called at the same time.
type Client struct {
	conn    *grpc.ClientConn
	api     pb.HostAgentServiceClient
	archive pb.ArchiveServiceClient
	address string

	secure   *tls.Config // nil for none
	identity pb.IdentityServiceClient
	peer     atomic.Pointer[x509.Certificate] // of the agent, as it was last seen

	life context.Context // of tunnels; ends with Close
	end  context.CancelFunc
	mu   sync.Mutex     // guards left against an Add during Wait
	left sync.WaitGroup // tunnels
}

// Dial returns a client of the agent at address (unix:///path or host:port) without
// connecting yet. The connection is not encrypted: a TCP address belongs on a network
// that nobody else can reach. An agent that went away is looked for at least once a second.
func Dial(address string) (*Client, error) { return DialTLS(address, nil) }

// DialTLS is Dial, with calls and tunnels alike in TLS of that configuration; nil for none.
func DialTLS(address string, secure *tls.Config) (*Client, error) {
	c := &Client{address: address, secure: secure}
	params := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 2 * time.Second,
	}
	// Credentials of gRPC's own know nothing of tunnels: the dialer sees to TLS for both.
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(params),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)), grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("host agent address %q: %w", address, err)
	}
	c.conn, c.api, c.archive, c.identity = conn, pb.NewHostAgentServiceClient(conn), pb.NewArchiveServiceClient(conn), pb.NewIdentityServiceClient(conn)
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the connection and all tunnels, and fails the calls under way.
func (c *Client) Close() error {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	err := c.conn.Close()
	c.left.Wait()
	return err
}

// State is what a host observes of a sandbox.
type State string

// The states of a sandbox on a host.
const (
	Starting State = "starting"
	Running  State = "running"
	Pausing  State = "pausing"
	Paused   State = "paused"
	Resuming State = "resuming"
	Stopping State = "stopping"
	Failed   State = "failed" // its VM ended unasked; its record is kept until it is destroyed
	Gone     State = "gone"   // only in watches: the host holds nothing of it any more

	Storing  State = "storing"  // paused, and on its way into the object store
	Fetching State = "fetching" // on its way out of it
)

// Sandbox is a sandbox as its host sees it.
type Sandbox struct {
	ID        id.Sandbox
	State     State
	Reason    string // why it is in this state; safe for users
	CreatedAt time.Time
	Steps     []models.Step

	NetworkGeneration int64               // of the network policy in force
	Resumed           *models.Certificate // of the last resume, or of its making from a golden snapshot; nil before
	Verified          time.Time           // when the snapshot that it sleeps in was last read and found whole; zero before
	Damage            string              // of that snapshot, which is not resumed then
	Archive           *models.Archive     // where the snapshot that it sleeps in is stored; nil where it is not
}

// NewSandbox is what a host needs to make a sandbox.
type NewSandbox struct {
	ID       id.Sandbox
	Template string
	Size     models.Size
	Env      map[string]string
	Network  models.NetworkPolicy
	Snapshot id.Snapshot // that it is made from, whose template and size are above; empty for none
}

// Create makes a sandbox and returns once it runs. It is safe to repeat. When it fails
// and grpcerr.FromAgent(err) is true, the host holds nothing of it; otherwise that is unknown.
func (c *Client) Create(ctx context.Context, n NewSandbox) (Sandbox, error) {
	resp, err := c.api.CreateSandbox(ctx, &pb.CreateSandboxRequest{
		SandboxId: string(n.ID), Template: n.Template, Env: n.Env, Network: policyMessage(n.Network),
		Vcpus: int32(n.Size.VCPUs), MemoryMib: int32(n.Size.MemoryMiB), DiskMib: int32(n.Size.DiskMiB),
		SnapshotId: string(n.Snapshot),
	})
	if err != nil {
		return Sandbox{}, grpcerr.Decode(err)
	}
	return sandbox(resp.GetSandbox()), nil
}

// Destroy ends a sandbox and frees what it held; the guest gets grace to end in order. It
// succeeds when there is nothing to destroy.
func (c *Client) Destroy(ctx context.Context, sb id.Sandbox, grace time.Duration) error {
	_, err := c.api.DestroySandbox(ctx, &pb.DestroySandboxRequest{SandboxId: string(sb), Grace: durationpb.New(grace)})
	return grpcerr.Decode(err)
}

// Pause freezes a sandbox and returns once its memory is given back. It is safe to repeat. When it fails and grpcerr.FromAgent(err) is true, the
// sandbox is as it was, or has failed; otherwise that is unknown.
func (c *Client) Pause(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	resp, err := c.api.PauseSandbox(ctx, &pb.PauseSandboxRequest{SandboxId: string(sb)})
	if err != nil {
		return Sandbox{}, grpcerr.Decode(err)
	}
	return sandbox(resp.GetSandbox()), nil
}

// Resume restores a paused sandbox and returns once it can be used. It is safe to repeat. Its errors are as those of Pause.
func (c *Client) Resume(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	resp, err := c.api.ResumeSandbox(ctx, &pb.ResumeSandboxRequest{SandboxId: string(sb)})
	if err != nil {
		return Sandbox{}, grpcerr.Decode(err)
	}
	return sandbox(resp.GetSandbox()), nil
}

// Sandbox returns a sandbox, or NotFound.
func (c *Client) Sandbox(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	resp, err := c.api.GetSandbox(ctx, &pb.GetSandboxRequest{SandboxId: string(sb)})
	if err != nil {
		return Sandbox{}, grpcerr.Decode(err)
	}
	return sandbox(resp.GetSandbox()), nil
}

// Console returns the last part of what the guest wrote to its console.
func (c *Client) Console(ctx context.Context, sb id.Sandbox) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	resp, err := c.api.ReadConsole(ctx, &pb.ReadConsoleRequest{SandboxId: string(sb)})
	return resp.GetData(), grpcerr.Decode(err)
}

// Info is what a host says of itself.
type Info struct {
	ID                                 id.Host
	Hostname, AgentVersion             string
	Driver, DriverVersion, Accelerator string
	VCPUs                              int
	MemoryMiB, DiskMiB                 int64
	OverheadMiB                        int64 // of the memory, that a VM takes beside its guest's
	Reflinks                           bool
	Templates                          []Template
	Archive                            bool // whether it has an object store
}

// Template is an image on a host.
type Template struct {
	Name, Digest, Description string
	Default                   models.Size
	Warm                      bool // the host has a golden snapshot of it as it is now
}

// Info asks the host for what it is and has.
func (c *Client) Info(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	r, err := c.api.GetHostInfo(ctx, &pb.GetHostInfoRequest{})
	if err != nil {
		return Info{}, grpcerr.Decode(err)
	}
	host, err := id.ParseHost(r.GetHostId())
	if err != nil {
		return Info{}, fmt.Errorf("host agent's answer: %w", err)
	}
	info := Info{
		ID: host, Hostname: r.GetHostname(), AgentVersion: r.GetAgentVersion(),
		Driver: r.GetDriver(), DriverVersion: r.GetDriverVersion(), Accelerator: r.GetAccelerator(),
		VCPUs: int(r.GetVcpus()), MemoryMiB: r.GetMemoryMib(), OverheadMiB: r.GetOverheadMib(), DiskMiB: r.GetDiskMib(), Reflinks: r.GetReflinks(),
		Archive: r.GetArchive(),
	}
	warm := map[string]bool{}
	for _, g := range r.GetGoldenSnapshots() {
		warm[g.GetTemplate()+" "+g.GetDigest()] = true
	}
	for _, t := range r.GetTemplates() {
		info.Templates = append(info.Templates, Template{
			Name: t.GetName(), Digest: t.GetDigest(), Description: t.GetDescription(), Warm: warm[t.GetName()+" "+t.GetDigest()],
			Default: models.Size{VCPUs: int(t.GetDefaultVcpus()), MemoryMiB: int(t.GetDefaultMemoryMib()), DiskMiB: int(t.GetDiskMib())},
		})
	}
	return info, nil
}

var states = map[pb.SandboxState]State{
	pb.SandboxState_SANDBOX_STATE_STARTING: Starting,
	pb.SandboxState_SANDBOX_STATE_RUNNING:  Running,
	pb.SandboxState_SANDBOX_STATE_PAUSING:  Pausing,
	pb.SandboxState_SANDBOX_STATE_PAUSED:   Paused,
	pb.SandboxState_SANDBOX_STATE_RESUMING: Resuming,
	pb.SandboxState_SANDBOX_STATE_STOPPING: Stopping,
	pb.SandboxState_SANDBOX_STATE_FAILED:   Failed,
	pb.SandboxState_SANDBOX_STATE_GONE:     Gone,
	pb.SandboxState_SANDBOX_STATE_STORING:  Storing,
	pb.SandboxState_SANDBOX_STATE_FETCHING: Fetching,
}

func sandbox(m *pb.Sandbox) Sandbox {
	s := Sandbox{ID: id.Sandbox(m.GetSandboxId()), State: states[m.GetState()], Reason: m.GetReason(), CreatedAt: m.GetCreatedAt().AsTime()}
	s.NetworkGeneration, s.Resumed = m.GetNetworkGeneration(), certificate(m.GetCertificate())
	if s.Damage = m.GetDamage(); m.GetVerifiedAt() != nil {
		s.Verified = m.GetVerifiedAt().AsTime()
	}
	s.Archive = archived(m.GetArchive())
	for _, step := range m.GetSteps() {
		s.Steps = append(s.Steps, models.Step{Name: step.GetName(), Duration: step.GetDuration().AsDuration()})
	}
	return s
}

func certificate(m *pb.Certificate) *models.Certificate {
	if m == nil {
		return nil
	}
	c := &models.Certificate{At: m.GetAt().AsTime()}
	for _, step := range m.GetSteps() {
		c.Steps = append(c.Steps, models.CertificateStep{Name: step.GetName(), Kept: step.GetKept(), Output: step.GetOutput(), Duration: step.GetDuration().AsDuration()})
	}
	return c
}
