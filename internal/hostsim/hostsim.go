// Package hostsim is a host agent without VMs, for tests of the control plane: the real
// server of calls and tunnels on a unix socket that keeps sandboxes in memory and misbehaves when it is told to. The guest of
// its sandboxes is a real envd on this machine, which does whatever it is asked as the user that the tests run as:
// a test names no path and no process that is not its own.
package hostsim

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Owner is what a host lives for, and fails: a testing.TB, or a benchmark that is a program.
type Owner interface {
	Helper()
	Cleanup(end func())
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// Host is a simulated host. Its sandboxes survive Kill, as VMs survive their agent.
type Host struct {
	pb.UnimplementedHostAgentServiceServer
	t    Owner
	path string

	identity *mtls.Identity // nil while it listens on a unix socket
	tcp      string         // where it listens otherwise

	starting  sync.Once // of shared
	shared    *guest
	sharedErr error

	mu        sync.Mutex // guards all of the following
	server    *tunnel.Server
	served    chan struct{}
	info      *pb.GetHostInfoResponse
	sandboxes map[string]*pb.Sandbox
	watchers  map[chan *pb.Sandbox]bool
	scripted  map[string]*guest
	tunnels   map[net.Conn]string // and their sandboxes
	opens     int
	creating  func(context.Context, *pb.CreateSandboxRequest) error
	created   func()
	destroy   func(context.Context, string) error
	networks  map[string]*pb.GetNetworkResponse
	enforcing func(*pb.SetNetworkPolicyRequest) error
	sleeping  func(context.Context, *pb.Sandbox) error
	slept     func()
	forking   func(context.Context, *pb.ForkSandboxRequest) error
	forked    func()
	keeping   func(context.Context, *pb.CreateSnapshotRequest) error
	kept      func()
	snapshots map[string]*pb.Snapshot
	pauses    int
	resumes   int
	creates   int
	destroys  int
	hung      bool // it takes calls and does not answer them

	objects  *Objects // what it can reach
	storing  func(context.Context, *pb.Sandbox) error
	released func(context.Context, string) error
}

// Start returns a host that serves until t ends.
func Start(t Owner) *Host {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostsim-") // t.TempDir may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if _, err := builtEnvd(); err != nil { // before a caller waits for its guest, which it does not do for long
		t.Fatal(err)
	}
	h := &Host{
		t: t, path: filepath.Join(dir, "agent.sock"), sandboxes: map[string]*pb.Sandbox{},
		watchers: map[chan *pb.Sandbox]bool{}, scripted: map[string]*guest{}, tunnels: map[net.Conn]string{}, info: defaultInfo(),
		networks: map[string]*pb.GetNetworkResponse{}, snapshots: map[string]*pb.Snapshot{}, objects: NewObjects(),
	}
	h.Restart()
	t.Cleanup(func() {
		h.Kill()
		h.starting.Do(func() {}) // nobody starts it any more
		if h.shared != nil {
			h.shared.close()
		}
	})
	return h
}

func defaultInfo() *pb.GetHostInfoResponse {
	return &pb.GetHostInfoResponse{
		HostId: "host-0000abcd", Hostname: "sim", Archive: true, AgentVersion: "test", Driver: "qemu", DriverVersion: "0",
		Accelerator: "tcg", Vcpus: 64, MemoryMib: 65536, DiskMib: 1 << 20,
		Templates: []*pb.Template{
			{Name: "python311", Digest: "sha256:00", DiskMib: 1024, Description: "Python", DefaultVcpus: 1, DefaultMemoryMib: 512},
			{Name: "minimal", Digest: "sha256:01", DiskMib: 512, Description: "Little"},
		},
	}
}

// Address is where the agent listens, for hostclient.Dial.
func (h *Host) Address() string {
	if h.identity != nil {
		return h.tcp
	}
	return "unix://" + h.path
}

// Kill ends the agent at once, as kill -9 does. Its sandboxes stay.
func (h *Host) Kill() {
	h.mu.Lock()
	server, served := h.server, h.served
	h.server = nil
	h.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// Restart starts the agent again after Kill.
func (h *Host) Restart() {
	h.t.Helper()
	l, err := h.listen()
	if err != nil {
		h.t.Fatalf("listen: %v", err)
	}
	log := slog.New(slog.DiscardHandler)
	g := grpc.NewServer(grpc.UnaryInterceptor(grpcerr.UnaryServer(log)), grpc.StreamInterceptor(grpcerr.StreamServer(log)))
	pb.RegisterHostAgentServiceServer(g, h)
	pb.RegisterArchiveServiceServer(g, archiveServer{h: h})
	if h.identity != nil {
		pb.RegisterIdentityServiceServer(g, h.identity)
	}
	s := tunnel.NewServer(g, h.tunnel, log)
	served := make(chan struct{})
	h.mu.Lock()
	h.server, h.served = s, served
	h.mu.Unlock()
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends with Stop
	}()
}

// Describe changes what the host says of itself.
func (h *Host) Describe(change func(*pb.GetHostInfoResponse)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h.info)
}

// Hang has the agent take calls for its state and not answer them, until it is called with false.
func (h *Host) Hang(hung bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hung = hung
}

// OnCreate has before called at the begin of each create, whose error is the create's, and
// after at its end, before it is answered. Either may be nil.
func (h *Host) OnCreate(before func(context.Context, *pb.CreateSandboxRequest) error, after func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.creating, h.created = before, after
}

// OnDestroy has f called at the begin of each destroy, whose error is the destroy's.
func (h *Host) OnDestroy(f func(context.Context, string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.destroy = f
}

// Put makes a sandbox in some state out of nothing: an orphan.
func (h *Host) Put(sandbox string, state pb.SandboxState, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hold(&pb.Sandbox{SandboxId: sandbox, State: state, Reason: reason, CreatedAt: timestamppb.Now()})
	if state != pb.SandboxState_SANDBOX_STATE_RUNNING {
		h.cut(sandbox)
	}
}

// Hold has the host hold sandboxes as they are given, which it keeps.
func (h *Host) Hold(sandboxes ...*pb.Sandbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sb := range sandboxes {
		h.hold(sb)
	}
}

// hold takes in a sandbox; the caller holds the lock.
func (h *Host) hold(sb *pb.Sandbox) {
	h.sandboxes[sb.GetSandboxId()] = sb
	h.publish(sb)
}

// Lose forgets a sandbox, as a host does that lost its disk. quietly leaves the watchers unaware.
func (h *Host) Lose(sandbox string, quietly bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sandboxes, sandbox)
	h.cut(sandbox)
	if !quietly {
		h.publish(&pb.Sandbox{SandboxId: sandbox, State: pb.SandboxState_SANDBOX_STATE_GONE})
	}
}

// State returns the state of a sandbox on the host, GONE when it has none of that id.
func (h *Host) State(sandbox string) pb.SandboxState {
	h.mu.Lock()
	defer h.mu.Unlock()
	if sb, ok := h.sandboxes[sandbox]; ok {
		return sb.GetState()
	}
	return pb.SandboxState_SANDBOX_STATE_GONE
}

// States returns the sandboxes that the host holds, and their states.
func (h *Host) States() map[string]pb.SandboxState {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string]pb.SandboxState, len(h.sandboxes))
	for name, sb := range h.sandboxes {
		all[name] = sb.GetState()
	}
	return all
}

// Counts returns how many creates and destroys were asked for, and how many sandboxes there are.
func (h *Host) Counts() (creates, destroys, sandboxes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.creates, h.destroys, len(h.sandboxes)
}

// publish tells the watchers; the caller holds the lock.
func (h *Host) publish(sb *pb.Sandbox) {
	for w := range h.watchers {
		select {
		case w <- proto.CloneOf(sb):
		default: // too slow: it is disconnected
			close(w)
			delete(h.watchers, w)
		}
	}
}

// GetHostInfo implements HostAgentService.
func (h *Host) GetHostInfo(ctx context.Context, _ *pb.GetHostInfoRequest) (*pb.GetHostInfoResponse, error) {
	h.mu.Lock()
	hung, info := h.hung, proto.CloneOf(h.info)
	h.mu.Unlock()
	if hung {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return info, nil
}

// CreateSandbox implements HostAgentService.
func (h *Host) CreateSandbox(ctx context.Context, req *pb.CreateSandboxRequest) (*pb.CreateSandboxResponse, error) {
	sb := &pb.Sandbox{
		SandboxId: req.GetSandboxId(), State: pb.SandboxState_SANDBOX_STATE_STARTING, Template: req.GetTemplate(),
		Vcpus: req.GetVcpus(), MemoryMib: req.GetMemoryMib(), DiskMib: req.GetDiskMib(), CreatedAt: timestamppb.Now(),
		NetworkGeneration: req.GetNetwork().GetGeneration(),
	}
	if err := h.knows(req.GetSnapshotId()); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.networks[req.GetSandboxId()] = &pb.GetNetworkResponse{Policy: req.GetNetwork(), Counters: &pb.NetworkCounters{}}
	before, after := h.creating, h.created
	h.creates++
	h.sandboxes[req.GetSandboxId()] = sb
	h.publish(sb)
	h.mu.Unlock()
	if before != nil {
		if err := before(ctx, req); err != nil {
			h.Lose(req.GetSandboxId(), false)
			return nil, err
		}
	}
	made, err := h.boot(req.GetSandboxId())
	if err == nil && after != nil {
		after()
	}
	return made, err
}

func (h *Host) boot(sandbox string) (*pb.CreateSandboxResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sb, ok := h.sandboxes[sandbox]
	if !ok {
		return nil, models.Errorf(models.Unavailable, "sandbox %s was destroyed meanwhile", sandbox)
	}
	sb.State = pb.SandboxState_SANDBOX_STATE_RUNNING
	sb.Steps = []*pb.Step{{Name: "boot", Duration: durationpb.New(time.Microsecond)}}
	h.publish(sb)
	return &pb.CreateSandboxResponse{Sandbox: proto.CloneOf(sb)}, nil
}

// DestroySandbox implements HostAgentService.
func (h *Host) DestroySandbox(ctx context.Context, req *pb.DestroySandboxRequest) (*pb.DestroySandboxResponse, error) {
	h.mu.Lock()
	f := h.destroy
	h.destroys++
	h.mu.Unlock()
	if f != nil {
		if err := f(ctx, req.GetSandboxId()); err != nil {
			return nil, err
		}
	}
	existed := h.State(req.GetSandboxId()) != pb.SandboxState_SANDBOX_STATE_GONE
	if existed {
		h.Lose(req.GetSandboxId(), false)
	}
	return &pb.DestroySandboxResponse{Existed: existed}, nil
}

// GetSandbox implements HostAgentService.
func (h *Host) GetSandbox(_ context.Context, req *pb.GetSandboxRequest) (*pb.GetSandboxResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sb, ok := h.sandboxes[req.GetSandboxId()]
	if !ok {
		return nil, missing(req.GetSandboxId())
	}
	return &pb.GetSandboxResponse{Sandbox: proto.CloneOf(sb)}, nil
}

func missing(sandbox string) error {
	return models.Errorf(models.NotFound, "there is no sandbox %s on this host", sandbox)
}

// EndWatches ends the watches that there are, as an agent does before it ends.
func (h *Host) EndWatches() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		close(w)
		delete(h.watchers, w)
	}
}

// WatchSandboxes implements HostAgentService.
func (h *Host) WatchSandboxes(_ *pb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[pb.WatchSandboxesResponse]) error {
	changes := make(chan *pb.Sandbox, 1024)
	h.mu.Lock()
	all := make([]*pb.Sandbox, 0, len(h.sandboxes))
	for _, sb := range h.sandboxes {
		all = append(all, proto.CloneOf(sb))
	}
	h.watchers[changes] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.watchers, changes)
		h.mu.Unlock()
	}()
	for _, sb := range all {
		if err := send(stream, sb); err != nil {
			return err
		}
	}
	if err := stream.Send(&pb.WatchSandboxesResponse{Event: &pb.WatchSandboxesResponse_Synced{Synced: true}}); err != nil {
		return err
	}
	for {
		select {
		case sb, ok := <-changes:
			if !ok {
				return fmt.Errorf("the watcher is too slow, or the agent ends")
			}
			if err := send(stream, sb); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func send(stream grpc.ServerStreamingServer[pb.WatchSandboxesResponse], sb *pb.Sandbox) error {
	return stream.Send(&pb.WatchSandboxesResponse{Event: &pb.WatchSandboxesResponse_Sandbox{Sandbox: sb}})
}

// ReadConsole implements HostAgentService.
func (h *Host) ReadConsole(_ context.Context, req *pb.ReadConsoleRequest) (*pb.ReadConsoleResponse, error) {
	if h.State(req.GetSandboxId()) == pb.SandboxState_SANDBOX_STATE_GONE {
		return nil, missing(req.GetSandboxId())
	}
	return &pb.ReadConsoleResponse{Data: []byte("booting \xff\nready\n")}, nil
}
