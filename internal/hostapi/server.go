// Package hostapi is the face of the host agent: it checks what comes in, calls
// the agent, and hands connections to the guests on.
package hostapi

import (
	"context"
	"log/slog"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/agent"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// HostInfo answers what the host is and has, at the moment of the call.
type HostInfo func(context.Context) (*pb.GetHostInfoResponse, error)

// Server implements HostAgentService over an agent.
type Server struct {
	pb.UnimplementedHostAgentServiceServer
	agent *agent.Agent
	info  HostInfo
	open  *tunnels
}

// New returns a server of calls and tunnels that serves a, and the identity of a host that has joined; nil for none. Whoever can connect to it owns every sandbox of the
// host: it belongs on a unix socket or behind mutual TLS.
func New(a *agent.Agent, info HostInfo, identity pb.IdentityServiceServer, meter Meter, log *slog.Logger) *tunnel.Server {
	g := grpc.NewServer(grpc.ChainUnaryInterceptor(grpcerr.UnaryServer(log), meter.unary), grpc.StreamInterceptor(grpcerr.StreamServer(log)))
	s := &Server{agent: a, info: info, open: &tunnels{of: map[id.Sandbox]int{}}}
	pb.RegisterHostAgentServiceServer(g, s)
	pb.RegisterArchiveServiceServer(g, &archiveServer{agent: a})
	if identity != nil {
		pb.RegisterIdentityServiceServer(g, identity)
	}
	return tunnel.NewServer(g, s.Tunnel, log)
}

// CreateSandbox implements HostAgentService.
func (s *Server) CreateSandbox(ctx context.Context, req *pb.CreateSandboxRequest) (*pb.CreateSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	network, err := policy(req.GetNetwork())
	if err != nil {
		return nil, err
	}
	var from id.Snapshot
	if req.GetSnapshotId() != "" {
		if from, err = parseSnapshot(req.GetSnapshotId()); err != nil {
			return nil, err
		}
	}
	made, err := s.agent.Create(ctx, agent.Request{
		Snapshot: from, ID: sb, Template: req.GetTemplate(), Env: req.GetEnv(), Network: network,
		Size: models.Size{
			VCPUs: int(req.GetVcpus()), MemoryMiB: int(req.GetMemoryMib()), DiskMiB: int(req.GetDiskMib()),
		},
	})
	if err != nil {
		return nil, err
	}
	return &pb.CreateSandboxResponse{Sandbox: message(made)}, nil
}

// DestroySandbox implements HostAgentService.
func (s *Server) DestroySandbox(ctx context.Context, req *pb.DestroySandboxRequest) (*pb.DestroySandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	existed, err := s.agent.Destroy(ctx, sb, req.GetGrace().AsDuration())
	if err != nil {
		return nil, err
	}
	return &pb.DestroySandboxResponse{Existed: existed}, nil
}

// PauseSandbox implements HostAgentService.
func (s *Server) PauseSandbox(ctx context.Context, req *pb.PauseSandboxRequest) (*pb.PauseSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	paused, err := s.agent.Pause(ctx, sb)
	if err != nil {
		return nil, err
	}
	return &pb.PauseSandboxResponse{Sandbox: message(paused)}, nil
}

// ResumeSandbox implements HostAgentService.
func (s *Server) ResumeSandbox(ctx context.Context, req *pb.ResumeSandboxRequest) (*pb.ResumeSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	resumed, err := s.agent.Resume(ctx, sb)
	if err != nil {
		return nil, err
	}
	return &pb.ResumeSandboxResponse{Sandbox: message(resumed)}, nil
}

// GetSandbox implements HostAgentService.
func (s *Server) GetSandbox(_ context.Context, req *pb.GetSandboxRequest) (*pb.GetSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	v, err := s.agent.Sandbox(sb)
	if err != nil {
		return nil, err
	}
	return &pb.GetSandboxResponse{Sandbox: message(v)}, nil
}

// ListSandboxes implements HostAgentService.
func (s *Server) ListSandboxes(context.Context, *pb.ListSandboxesRequest) (*pb.ListSandboxesResponse, error) {
	resp := &pb.ListSandboxesResponse{}
	for _, v := range s.agent.Sandboxes() {
		resp.Sandboxes = append(resp.Sandboxes, message(v))
	}
	return resp, nil
}

// WatchSandboxes implements HostAgentService.
func (s *Server) WatchSandboxes(_ *pb.WatchSandboxesRequest, out grpc.ServerStreamingServer[pb.WatchSandboxesResponse]) error {
	all, changes, stop := s.agent.Watch()
	defer stop()
	send := func(v agent.Sandbox) error {
		return out.Send(&pb.WatchSandboxesResponse{Event: &pb.WatchSandboxesResponse_Sandbox{Sandbox: message(v)}})
	}
	for _, v := range all {
		if err := send(v); err != nil {
			return err
		}
	}
	if err := out.Send(&pb.WatchSandboxesResponse{Event: &pb.WatchSandboxesResponse_Synced{Synced: true}}); err != nil {
		return err
	}
	for {
		select {
		case v, open := <-changes:
			if !open {
				return models.Errorf(models.Unavailable, "the watcher fell behind or the agent ends: watch again")
			}
			if err := send(v); err != nil {
				return err
			}
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

// ReadConsole implements HostAgentService.
func (s *Server) ReadConsole(_ context.Context, req *pb.ReadConsoleRequest) (*pb.ReadConsoleResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	text, err := s.agent.Console(sb)
	if os.IsNotExist(err) {
		return &pb.ReadConsoleResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &pb.ReadConsoleResponse{Data: text}, nil
}

// GetHostInfo implements HostAgentService.
func (s *Server) GetHostInfo(ctx context.Context, _ *pb.GetHostInfoRequest) (*pb.GetHostInfoResponse, error) {
	return s.info(ctx)
}

func parse(text string) (id.Sandbox, error) {
	sb, err := id.ParseSandbox(text)
	if err != nil {
		return "", models.Errorf(models.Invalid, "%v", err)
	}
	return sb, nil
}

var stateOf = map[agent.State]pb.SandboxState{
	agent.Starting: pb.SandboxState_SANDBOX_STATE_STARTING,
	agent.Running:  pb.SandboxState_SANDBOX_STATE_RUNNING,
	agent.Pausing:  pb.SandboxState_SANDBOX_STATE_PAUSING,
	agent.Paused:   pb.SandboxState_SANDBOX_STATE_PAUSED,
	agent.Resuming: pb.SandboxState_SANDBOX_STATE_RESUMING,
	agent.Stopping: pb.SandboxState_SANDBOX_STATE_STOPPING,
	agent.Failed:   pb.SandboxState_SANDBOX_STATE_FAILED,
	agent.Gone:     pb.SandboxState_SANDBOX_STATE_GONE,
	agent.Storing:  pb.SandboxState_SANDBOX_STATE_STORING,
	agent.Fetching: pb.SandboxState_SANDBOX_STATE_FETCHING,
}

func message(v agent.Sandbox) *pb.Sandbox {
	m := &pb.Sandbox{
		SandboxId: string(v.ID), State: stateOf[v.State], Reason: v.Reason, Template: v.Template,
		Vcpus: int32(v.Size.VCPUs), MemoryMib: int32(v.Size.MemoryMiB), DiskMib: int32(v.Size.DiskMiB),
		CreatedAt: timestamppb.New(v.CreatedAt), GuestAddress: v.Guest, EnvdVersion: v.EnvdVersion,
		NetworkGeneration: v.Network.Generation, Certificate: certificate(v.Resumed), Archive: archiveMessage(v.Archive), Damage: v.Damage,
	}
	if !v.Verified.IsZero() {
		m.VerifiedAt = timestamppb.New(v.Verified)
	}
	for _, step := range v.Steps {
		m.Steps = append(m.Steps, &pb.Step{Name: step.Name, Duration: durationpb.New(step.Duration)})
	}
	return m
}

func certificate(c *models.Certificate) *pb.Certificate {
	if c == nil {
		return nil
	}
	m := &pb.Certificate{At: timestamppb.New(c.At)}
	for _, step := range c.Steps {
		m.Steps = append(m.Steps, &pb.CertificateStep{Name: step.Name, Kept: step.Kept, Output: step.Output, Duration: durationpb.New(step.Duration)})
	}
	return m
}
