package hostclient

import (
	"context"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// archiveLimit bounds calls that take one request to the object store, or a few.
const archiveLimit = 20 * time.Second

// CheckArchive fails where the host has no object store, or cannot reach it.
func (c *Client) CheckArchive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, archiveLimit)
	defer cancel()
	_, err := c.archive.CheckArchive(ctx, &pb.CheckArchiveRequest{})
	return grpcerr.Decode(err)
}

// Store puts the snapshot of a paused sandbox into the object store and returns it, paused as before, with its Archive. It is safe to repeat. Its errors are as those of Pause.
func (c *Client) Store(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	resp, err := c.archive.StoreSandbox(ctx, &pb.StoreSandboxRequest{SandboxId: string(sb)})
	if err != nil {
		return Sandbox{}, grpcerr.Decode(err)
	}
	return sandbox(resp.GetSandbox()), nil
}

// Release frees what the host holds of a sandbox that is stored under key, and fails with Conflict where the host has something else of it. It is safe to repeat.
func (c *Client) Release(ctx context.Context, sb id.Sandbox, key string) error {
	_, err := c.archive.ReleaseSandbox(ctx, &pb.ReleaseSandboxRequest{SandboxId: string(sb), Key: key})
	return grpcerr.Decode(err)
}

// Fetch makes a sandbox, paused, of what is stored under key. It is safe to repeat. When it fails and grpcerr.FromAgent(err) is true, the
// host holds nothing of it; otherwise that is unknown.
func (c *Client) Fetch(ctx context.Context, sb id.Sandbox, key string, network models.NetworkPolicy) (Sandbox, error) {
	resp, err := c.archive.FetchSandbox(ctx, &pb.FetchSandboxRequest{SandboxId: string(sb), Key: key, Network: policyMessage(network)})
	if err != nil {
		return Sandbox{}, grpcerr.Decode(err)
	}
	return sandbox(resp.GetSandbox()), nil
}

// VerifyArchive has the host read what is stored under key, which may take long, and returns what is wrong with it; "" for nothing.
func (c *Client) VerifyArchive(ctx context.Context, key string) (damage string, err error) {
	resp, err := c.archive.VerifyArchive(ctx, &pb.VerifyArchiveRequest{Key: key})
	return resp.GetDamage(), grpcerr.Decode(err)
}

// Archived returns the keys of all that is stored.
func (c *Client) Archived(ctx context.Context) ([]string, error) {
	resp, err := c.archive.ListArchive(ctx, &pb.ListArchiveRequest{})
	return resp.GetKeys(), grpcerr.Decode(err)
}

// RemoveArchive removes what is stored under key, which is never stored again. It succeeds where there is nothing.
func (c *Client) RemoveArchive(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, archiveLimit)
	defer cancel()
	_, err := c.archive.RemoveArchive(ctx, &pb.RemoveArchiveRequest{Key: key})
	return grpcerr.Decode(err)
}

// Collected is what a collection did.
type Collected struct {
	Snapshots, Chunks, Deleted, DeletedBytes int64
}

// Collect deletes what is stored and needed by nothing. It may take hours, and be broken off at any time.
func (c *Client) Collect(ctx context.Context) (Collected, error) {
	resp, err := c.archive.CollectArchive(ctx, &pb.CollectArchiveRequest{})
	return Collected{
		Snapshots: resp.GetSnapshots(), Chunks: resp.GetChunks(), Deleted: resp.GetDeletedChunks(), DeletedBytes: resp.GetDeletedBytes(),
	}, grpcerr.Decode(err)
}

func archived(m *pb.Archive) *models.Archive {
	if m == nil {
		return nil
	}
	return &models.Archive{
		Key: m.GetKey(), TemplateDigest: m.GetTemplateDigest(), SentBytes: m.GetSentBytes(),
		Driver: m.GetDriver(), DriverVersion: m.GetDriverVersion(), Accelerator: m.GetAccelerator(),
	}
}
