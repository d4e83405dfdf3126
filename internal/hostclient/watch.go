package hostclient

import (
	"context"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Watch is a stream of what happens on a host.
type Watch struct {
	stream grpc.ServerStreamingClient[pb.WatchSandboxesResponse]
}

// Watch begins a stream, which ends with ctx.
func (c *Client) Watch(ctx context.Context) (*Watch, error) {
	stream, err := c.api.WatchSandboxes(ctx, &pb.WatchSandboxesRequest{})
	if err != nil {
		return nil, grpcerr.Decode(err)
	}
	return &Watch{stream: stream}, nil
}

// Next waits for the next message. First comes every sandbox of the host, then one
// message with synced set and no sandbox, then each change. Any error, io.EOF too, ends the watch.
func (w *Watch) Next() (sb Sandbox, synced bool, err error) {
	m, err := w.stream.Recv()
	if err != nil {
		return Sandbox{}, false, grpcerr.Decode(err)
	}
	if m.GetSynced() {
		return Sandbox{}, true, nil
	}
	return sandbox(m.GetSandbox()), false, nil
}
