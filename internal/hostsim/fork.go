package hostsim

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// OnFork has before called at the begin of each fork, when its children are being made, whose error is the fork's and undoes it, and after at its end, before it is
// answered. Either may be nil.
func (h *Host) OnFork(before func(context.Context, *pb.ForkSandboxRequest) error, after func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forking, h.forked = before, after
}

// OnSnapshot has before called at the begin of the making of each snapshot, whose error is that of the call, and after at its end, before it is answered. Either may be nil.
func (h *Host) OnSnapshot(before func(context.Context, *pb.CreateSnapshotRequest) error, after func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keeping, h.kept = before, after
}

// ForkSandbox implements HostAgentService.
func (h *Host) ForkSandbox(ctx context.Context, req *pb.ForkSandboxRequest) (*pb.ForkSandboxResponse, error) {
	before, after, err := h.conceive(req)
	if err != nil {
		return nil, err
	}
	if before != nil {
		if err := before(ctx, req); err != nil {
			for _, c := range req.GetChildren() {
				h.Lose(c.GetSandboxId(), false)
			}
			return nil, err
		}
	}
	resp := &pb.ForkSandboxResponse{}
	for _, c := range req.GetChildren() {
		made, err := h.boot(c.GetSandboxId())
		if err != nil {
			return nil, err
		}
		resp.Sandboxes = append(resp.Sandboxes, made.GetSandbox())
	}
	if after != nil {
		after()
	}
	return resp, nil
}

// conceive lists the children of a fork as sandboxes that are starting.
func (h *Host) conceive(req *pb.ForkSandboxRequest) (before func(context.Context, *pb.ForkSandboxRequest) error, after func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.still(req.GetSandboxId()); err != nil {
		return nil, nil, err
	}
	for _, c := range req.GetChildren() {
		sb := proto.CloneOf(h.sandboxes[req.GetSandboxId()])
		sb.SandboxId, sb.State, sb.CreatedAt = c.GetSandboxId(), pb.SandboxState_SANDBOX_STATE_STARTING, timestamppb.Now()
		sb.NetworkGeneration, sb.Certificate = c.GetNetwork().GetGeneration(), certificate()
		h.networks[sb.GetSandboxId()] = &pb.GetNetworkResponse{Policy: c.GetNetwork(), Counters: &pb.NetworkCounters{}}
		h.sandboxes[sb.GetSandboxId()] = sb
		h.publish(sb)
	}
	h.creates++
	return h.forking, h.forked, nil
}

// still returns why a sandbox cannot be forked or kept. The caller holds the lock.
func (h *Host) still(sandbox string) error {
	sb := h.sandboxes[sandbox]
	switch {
	case sb == nil:
		return missing(sandbox)
	case sb.GetState() != pb.SandboxState_SANDBOX_STATE_RUNNING && sb.GetState() != pb.SandboxState_SANDBOX_STATE_PAUSED:
		return models.Errorf(models.Precondition, "sandbox %s is %s", sandbox, sb.GetState())
	}
	return nil
}

// CreateSnapshot implements HostAgentService.
func (h *Host) CreateSnapshot(ctx context.Context, req *pb.CreateSnapshotRequest) (*pb.CreateSnapshotResponse, error) {
	h.mu.Lock()
	before, after, err := h.keeping, h.kept, h.still(req.GetSandboxId())
	h.mu.Unlock()
	if err == nil && before != nil {
		err = before(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	made := &pb.Snapshot{SnapshotId: req.GetSnapshotId(), SandboxId: req.GetSandboxId(), CreatedAt: timestamppb.Now(), Bytes: 4096}
	h.PutSnapshot(made)
	if after != nil {
		after()
	}
	return &pb.CreateSnapshotResponse{Snapshot: made}, nil
}

// PutSnapshot has the host hold a snapshot.
func (h *Host) PutSnapshot(s *pb.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots[s.GetSnapshotId()] = proto.CloneOf(s)
}

// LoseSnapshot has the host forget a snapshot.
func (h *Host) LoseSnapshot(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.snapshots, name)
}

// Snapshots returns the names of those that the host holds.
func (h *Host) Snapshots() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.snapshots))
}

// knows returns why no sandbox can be made from a snapshot; "" is none.
func (h *Host) knows(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name != "" && h.snapshots[name] == nil {
		return models.Errorf(models.NotFound, "there is no snapshot %s on this host", name)
	}
	return nil
}

// DeleteSnapshot implements HostAgentService.
func (h *Host) DeleteSnapshot(_ context.Context, req *pb.DeleteSnapshotRequest) (*pb.DeleteSnapshotResponse, error) {
	h.LoseSnapshot(req.GetSnapshotId())
	return &pb.DeleteSnapshotResponse{}, nil
}

// ListSnapshots implements HostAgentService.
func (h *Host) ListSnapshots(context.Context, *pb.ListSnapshotsRequest) (*pb.ListSnapshotsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	resp := &pb.ListSnapshotsResponse{}
	for _, s := range h.snapshots {
		resp.Snapshots = append(resp.Snapshots, proto.CloneOf(s))
	}
	return resp, nil
}
