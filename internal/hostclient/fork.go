package hostclient

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// NewFork is a child that a fork makes.
type NewFork struct {
	ID      id.Sandbox
	Network models.NetworkPolicy
}

// Fork makes children of a running or paused sandbox and returns once all of them run, in the order of children. It is safe to repeat. When it fails and grpcerr.FromAgent(err) is
// true, the host holds nothing of any; otherwise that is unknown.
func (c *Client) Fork(ctx context.Context, parent id.Sandbox, children []NewFork) ([]Sandbox, error) {
	req := &pb.ForkSandboxRequest{SandboxId: string(parent)}
	for _, kid := range children {
		req.Children = append(req.Children, &pb.ForkChild{SandboxId: string(kid.ID), Network: policyMessage(kid.Network)})
	}
	resp, err := c.api.ForkSandbox(ctx, req)
	if err != nil {
		return nil, grpcerr.Decode(err)
	}
	if len(resp.GetSandboxes()) != len(children) {
		return nil, fmt.Errorf("host agent's answer: it has made %d children, not %d", len(resp.GetSandboxes()), len(children))
	}
	made := make([]Sandbox, len(children))
	for i, m := range resp.GetSandboxes() {
		made[i] = sandbox(m)
	}
	return made, nil
}

// Snapshot is one that a host keeps for users.
type Snapshot struct {
	ID        id.Snapshot
	Damage    string // why it cannot be used; then the rest is not known
	Sandbox   id.Sandbox
	CreatedAt time.Time
	Bytes     int64 // that it takes of the disk at most
}

// CreateSnapshot makes a snapshot of a running or paused sandbox and returns once it is on the host's disk. It is safe to repeat. When it fails and grpcerr.FromAgent(err) is true, there is
// no such snapshot; otherwise that is unknown.
func (c *Client) CreateSnapshot(ctx context.Context, sb id.Sandbox, name id.Snapshot) (Snapshot, error) {
	resp, err := c.api.CreateSnapshot(ctx, &pb.CreateSnapshotRequest{SnapshotId: string(name), SandboxId: string(sb)})
	if err != nil {
		return Snapshot{}, grpcerr.Decode(err)
	}
	return snapshot(resp.GetSnapshot()), nil
}

// DeleteSnapshot removes a snapshot, and succeeds when there is none.
func (c *Client) DeleteSnapshot(ctx context.Context, name id.Snapshot) error {
	_, err := c.api.DeleteSnapshot(ctx, &pb.DeleteSnapshotRequest{SnapshotId: string(name)})
	return grpcerr.Decode(err)
}

// Snapshots returns those that the host keeps for users.
func (c *Client) Snapshots(ctx context.Context) ([]Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	resp, err := c.api.ListSnapshots(ctx, &pb.ListSnapshotsRequest{})
	if err != nil {
		return nil, grpcerr.Decode(err)
	}
	all := make([]Snapshot, len(resp.GetSnapshots()))
	for i, m := range resp.GetSnapshots() {
		all[i] = snapshot(m)
	}
	return all, nil
}

func snapshot(m *pb.Snapshot) Snapshot {
	return Snapshot{
		ID: id.Snapshot(m.GetSnapshotId()), Damage: m.GetDamage(), Sandbox: id.Sandbox(m.GetSandboxId()), CreatedAt: m.GetCreatedAt().AsTime(), Bytes: m.GetBytes(),
	}
}
