// Package grpcerr is the one adapter between models.Error and gRPC statuses.
//
// The host agent sends errors through Encode (UnaryServer and StreamServer apply it
// to every call); the control plane reads them through Decode. What crosses the wire
// is the status code, for anybody's tools, and a wrenn.hostagent.v1.ErrorDetail, for
// Decode. The cause of an error stays in the process where it arose.
package grpcerr

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	hostagentv1 "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Encode returns err as a gRPC status with an ErrorDetail. A nil error stays nil; an
// error without a code becomes internal and tells the other side nothing.
func Encode(err error) error {
	if err == nil {
		return nil
	}
	e := models.AsError(err)
	st := status.New(statusCode(e.Code), e.Message)
	detail := &hostagentv1.ErrorDetail{Code: string(e.Code), Message: e.Message, Hint: e.Hint}
	if full, err := st.WithDetails(detail); err == nil {
		st = full
	}
	return st.Err()
}

// Decode returns what a gRPC call failed with as a *models.Error whose cause is err.
// Nil and io.EOF, which ends a stream in order, come back as they are, and so does an
// error that is coded already. A status without an ErrorDetail comes from the transport
// and not from the agent: it is coded by its status code, in words fit for users.
func Decode(err error) error {
	var coded *models.Error
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &coded) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return models.AsError(err)
	}
	if d, ok := detailOf(st); ok {
		return &models.Error{Code: models.Code(d.GetCode()), Message: d.GetMessage(), Hint: d.GetHint(), Cause: err}
	}
	return transport(st.Code()).WithCause(err)
}

// FromAgent reports whether err, as Decode returned it, was sent by the agent itself. False
// means that the transport failed, and whether the agent carried the call out is unknown.
func FromAgent(err error) bool {
	var st interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &st) {
		return false
	}
	_, ok := detailOf(st.GRPCStatus())
	return ok
}

func detailOf(st *status.Status) (*hostagentv1.ErrorDetail, bool) {
	for _, d := range st.Details() {
		if d, ok := d.(*hostagentv1.ErrorDetail); ok && known(models.Code(d.GetCode())) {
			return d, true
		}
	}
	return nil, false
}

func known(c models.Code) bool { return c == models.Internal || statusCode(c) != codes.Internal }

func statusCode(c models.Code) codes.Code {
	switch c {
	case models.Invalid:
		return codes.InvalidArgument
	case models.Unauthenticated:
		return codes.Unauthenticated
	case models.Forbidden:
		return codes.PermissionDenied
	case models.NotFound:
		return codes.NotFound
	case models.Conflict:
		return codes.Aborted
	case models.Precondition:
		return codes.FailedPrecondition
	case models.Exhausted:
		return codes.ResourceExhausted
	case models.Unavailable:
		return codes.Unavailable
	case models.Deadline:
		return codes.DeadlineExceeded
	default:
		return codes.Internal
	}
}

func transport(c codes.Code) *models.Error {
	switch c {
	case codes.Unavailable:
		return models.Errorf(models.Unavailable, "the host of the sandbox cannot be reached").
			WithHint("try again in a few seconds")
	case codes.Canceled:
		return models.AsError(context.Canceled)
	case codes.DeadlineExceeded:
		return models.Errorf(models.Deadline, "the host of the sandbox did not answer in time")
	default:
		return models.AsError(errors.New(c.String()))
	}
}
