// Package tunnel carries one connection in one gRPC stream: HostAgentService.Tunnel, both ends of it.
//
// Serve is the agent's end: it moves bytes between the stream and a connection to the guest. Conn is the control
// plane's: a net.Conn whose other end is that connection. Each tunnel has a window of its own, so that one
// that nobody reads holds up no other, and at most a few messages of it are held in memory.
package tunnel

import (
	"time"

	"google.golang.org/grpc"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// MaxData is the most that one message carries.
const MaxData = 256 << 10

// linger is how long an end that was told to stop may take to do so before it is stopped.
const linger = 5 * time.Second

type (
	serverStream = grpc.BidiStreamingServer[pb.TunnelRequest, pb.TunnelResponse]
	clientStream = grpc.BidiStreamingClient[pb.TunnelRequest, pb.TunnelResponse]
)
