package hostapi

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/agent"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// ForkSandbox implements HostAgentService.
func (s *Server) ForkSandbox(ctx context.Context, req *pb.ForkSandboxRequest) (*pb.ForkSandboxResponse, error) {
	parent, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	children := make([]agent.Child, len(req.GetChildren()))
	for i, c := range req.GetChildren() {
		if children[i].ID, err = parse(c.GetSandboxId()); err != nil {
			return nil, err
		}
		if children[i].Network, err = policy(c.GetNetwork()); err != nil {
			return nil, err
		}
	}
	made, err := s.agent.Fork(ctx, parent, children)
	if err != nil {
		return nil, err
	}
	resp := &pb.ForkSandboxResponse{}
	for _, v := range made {
		resp.Sandboxes = append(resp.Sandboxes, message(v))
	}
	return resp, nil
}

// CreateSnapshot implements HostAgentService.
func (s *Server) CreateSnapshot(ctx context.Context, req *pb.CreateSnapshotRequest) (*pb.CreateSnapshotResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	name, err := parseSnapshot(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	kept, err := s.agent.Keep(ctx, sb, name)
	if err != nil {
		return nil, err
	}
	return &pb.CreateSnapshotResponse{Snapshot: snapshotMessage(kept)}, nil
}

// DeleteSnapshot implements HostAgentService.
func (s *Server) DeleteSnapshot(ctx context.Context, req *pb.DeleteSnapshotRequest) (*pb.DeleteSnapshotResponse, error) {
	name, err := parseSnapshot(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	if err := s.agent.Discard(ctx, name); err != nil {
		return nil, err
	}
	return &pb.DeleteSnapshotResponse{}, nil
}

// ListSnapshots implements HostAgentService.
func (s *Server) ListSnapshots(context.Context, *pb.ListSnapshotsRequest) (*pb.ListSnapshotsResponse, error) {
	all, err := s.agent.Snapshots()
	if err != nil {
		return nil, err
	}
	resp := &pb.ListSnapshotsResponse{}
	for _, k := range all {
		resp.Snapshots = append(resp.Snapshots, snapshotMessage(k))
	}
	return resp, nil
}

func snapshotMessage(k agent.Kept) *pb.Snapshot {
	if k.Damage != nil {
		return &pb.Snapshot{SnapshotId: string(k.ID), Damage: models.AsError(k.Damage).Message}
	}
	return &pb.Snapshot{SnapshotId: string(k.ID), SandboxId: string(k.Sandbox), CreatedAt: timestamppb.New(k.CreatedAt), Bytes: k.Bytes}
}

func parseSnapshot(text string) (id.Snapshot, error) {
	name, err := id.ParseSnapshot(text)
	if err != nil {
		return "", models.Errorf(models.Invalid, "%v", err)
	}
	return name, nil
}
