package grpcerr

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// UnaryServer encodes the error of every unary call. It logs the cause of those that are
// the server's own fault, because the caller is not told it.
func UnaryServer(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		return resp, encodeLogged(ctx, log, info.FullMethod, err)
	}
}

// StreamServer is UnaryServer for streaming calls.
func StreamServer(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		err := next(srv, stream)
		return encodeLogged(stream.Context(), log, info.FullMethod, err)
	}
}

func encodeLogged(ctx context.Context, log *slog.Logger, method string, err error) error {
	if err != nil && models.CodeOf(err) == models.Internal {
		log.ErrorContext(ctx, "call failed", "method", method, "error", err)
	}
	return Encode(err)
}
