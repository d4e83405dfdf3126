package hostapi

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/agent"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// archiveServer implements ArchiveService over an agent.
type archiveServer struct {
	pb.UnimplementedArchiveServiceServer
	agent *agent.Agent
}

// CheckArchive implements ArchiveService.
func (s *archiveServer) CheckArchive(ctx context.Context, _ *pb.CheckArchiveRequest) (*pb.CheckArchiveResponse, error) {
	archive, err := s.agent.Archive()
	if err == nil {
		err = archive.Check(ctx)
	}
	return &pb.CheckArchiveResponse{}, err
}

// StoreSandbox implements ArchiveService.
func (s *archiveServer) StoreSandbox(ctx context.Context, req *pb.StoreSandboxRequest) (*pb.StoreSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	stored, err := s.agent.Store(ctx, sb)
	if err != nil {
		return nil, err
	}
	return &pb.StoreSandboxResponse{Sandbox: message(stored)}, nil
}

// ReleaseSandbox implements ArchiveService.
func (s *archiveServer) ReleaseSandbox(ctx context.Context, req *pb.ReleaseSandboxRequest) (*pb.ReleaseSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err == nil {
		err = s.agent.Release(ctx, sb, req.GetKey())
	}
	return &pb.ReleaseSandboxResponse{}, err
}

// FetchSandbox implements ArchiveService.
func (s *archiveServer) FetchSandbox(ctx context.Context, req *pb.FetchSandboxRequest) (*pb.FetchSandboxResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	network, err := policy(req.GetNetwork())
	if err != nil {
		return nil, err
	}
	fetched, err := s.agent.Fetch(ctx, agent.FetchRequest{ID: sb, Key: req.GetKey(), Network: network})
	if err != nil {
		return nil, err
	}
	return &pb.FetchSandboxResponse{Sandbox: message(fetched)}, nil
}

// VerifyArchive implements ArchiveService.
func (s *archiveServer) VerifyArchive(ctx context.Context, req *pb.VerifyArchiveRequest) (*pb.VerifyArchiveResponse, error) {
	damage, err := s.agent.VerifyArchive(ctx, req.GetKey())
	return &pb.VerifyArchiveResponse{Damage: damage}, err
}

// ListArchive implements ArchiveService.
func (s *archiveServer) ListArchive(ctx context.Context, _ *pb.ListArchiveRequest) (*pb.ListArchiveResponse, error) {
	archive, err := s.agent.Archive()
	if err != nil {
		return nil, err
	}
	resp := &pb.ListArchiveResponse{}
	for key, err := range archive.Keys(ctx) {
		if err != nil {
			return nil, err
		}
		resp.Keys = append(resp.Keys, key)
	}
	return resp, nil
}

// RemoveArchive implements ArchiveService.
func (s *archiveServer) RemoveArchive(ctx context.Context, req *pb.RemoveArchiveRequest) (*pb.RemoveArchiveResponse, error) {
	archive, err := s.agent.Archive()
	if err == nil {
		err = archive.Delete(ctx, req.GetKey())
	}
	return &pb.RemoveArchiveResponse{}, err
}

// CollectArchive implements ArchiveService.
func (s *archiveServer) CollectArchive(ctx context.Context, _ *pb.CollectArchiveRequest) (*pb.CollectArchiveResponse, error) {
	archive, err := s.agent.Archive()
	if err != nil {
		return nil, err
	}
	done, err := archive.Collect(ctx)
	return &pb.CollectArchiveResponse{
		Snapshots: int64(done.Roots), Chunks: int64(done.Chunks), DeletedChunks: int64(done.Deleted), DeletedBytes: done.Bytes,
	}, err
}

func archiveMessage(a *models.Archive) *pb.Archive {
	if a == nil {
		return nil
	}
	return &pb.Archive{
		Key: a.Key, TemplateDigest: a.TemplateDigest, SentBytes: a.SentBytes,
		Driver: a.Driver, DriverVersion: a.DriverVersion, Accelerator: a.Accelerator,
	}
}
