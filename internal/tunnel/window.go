package tunnel

import "google.golang.org/grpc"

// What a tunnel may hold at either end that nobody has read yet, and what all tunnels of a gRPC connection may have on their
// way; that a reader is slow does not count for the latter. gRPC's own windows grow to 16 MiB each, and are no faster here.
const (
	streamWindow = 1 << 20
	connWindow   = 16 << 20
	// ioBuffer is what a gRPC connection reads and writes at once.
	ioBuffer = 128 << 10
)

// ServerOptions are gRPC's for a server of tunnels.
func ServerOptions() []grpc.ServerOption {
	return append(serverCodec(), grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connWindow),
		grpc.WriteBufferSize(ioBuffer), grpc.ReadBufferSize(ioBuffer))
}

// DialOptions are gRPC's for a client of tunnels.
func DialOptions() []grpc.DialOption {
	return append(dialCodec(), grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(ioBuffer), grpc.WithReadBufferSize(ioBuffer))
}
