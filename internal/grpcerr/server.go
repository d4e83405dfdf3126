package grpcerr

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// UnaryServer encodes the error of every unary call, as EncodeLogged does.
func UnaryServer(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		return resp, EncodeLogged(ctx, log, info.FullMethod, err)
	}
}

// StreamServer is UnaryServer for streaming calls.
func StreamServer(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		err := next(srv, stream)
		return EncodeLogged(stream.Context(), log, info.FullMethod, err)
	}
}

// EncodeLogged encodes an error. It logs the cause of one that is the server's own fault, because the caller is not told it. That the call itself has ended,
// ctx with it, is the transport's to say: the caller hears the same from whichever end notices first.
func EncodeLogged(ctx context.Context, log *slog.Logger, method string, err error) error {
	var coded *models.Error
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) && !errors.As(err, &coded) {
		return status.FromContextError(ctx.Err()).Err()
	}
	if err != nil && models.CodeOf(err) == models.Internal {
		log.ErrorContext(ctx, "call failed", "method", method, "error", err)
	}
	return Encode(err)
}
