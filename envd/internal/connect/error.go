package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// Code is the kind of an error, as the protocol writes it.
type Code string

// The codes.
const (
	Canceled           Code = "canceled"
	Unknown            Code = "unknown"
	InvalidArgument    Code = "invalid_argument"
	DeadlineExceeded   Code = "deadline_exceeded"
	NotFound           Code = "not_found"
	AlreadyExists      Code = "already_exists"
	PermissionDenied   Code = "permission_denied"
	ResourceExhausted  Code = "resource_exhausted"
	FailedPrecondition Code = "failed_precondition"
	Aborted            Code = "aborted"
	OutOfRange         Code = "out_of_range"
	Unimplemented      Code = "unimplemented"
	Internal           Code = "internal"
	Unavailable        Code = "unavailable"
	DataLoss           Code = "data_loss"
	Unauthenticated    Code = "unauthenticated"
)

// status is the HTTP status of a unary call's error, by the protocol's table.
func (c Code) status() int {
	switch c {
	case Canceled:
		return 499
	case InvalidArgument, FailedPrecondition, OutOfRange:
		return http.StatusBadRequest
	case DeadlineExceeded:
		return http.StatusGatewayTimeout
	case NotFound:
		return http.StatusNotFound
	case AlreadyExists, Aborted:
		return http.StatusConflict
	case PermissionDenied:
		return http.StatusForbidden
	case ResourceExhausted:
		return http.StatusTooManyRequests
	case Unimplemented:
		return http.StatusNotImplemented
	case Unavailable:
		return http.StatusServiceUnavailable
	case Unauthenticated:
		return http.StatusUnauthorized
	default:
		return http.StatusInternalServerError
	}
}

// Error is an error for the caller; Message is complete and safe to show.
type Error struct {
	Code    Code        `json:"code"`
	Message string      `json:"message,omitempty"`
	Header  http.Header `json:"-"` // sent along: as headers of a unary call, as trailers of a stream
}

// Errorf returns an error with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// asError makes an Error of what a method returned.
func asError(err error) *Error {
	var coded *Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, context.Canceled):
		return &Error{Code: Canceled, Message: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: DeadlineExceeded, Message: err.Error()}
	}
	return &Error{Code: Internal, Message: err.Error()}
}

// write answers a unary call. Nothing may have been written before.
func (e *Error) write(w http.ResponseWriter) {
	body, _ := json.Marshal(e) // strings always encode
	header := w.Header()
	maps.Copy(header, e.Header)
	header.Set("Content-Type", "application/json")
	w.WriteHeader(e.Code.status())
	_, _ = w.Write(body) // the caller is gone if this fails
}

// endOfStream is the content of a stream's last frame.
type endOfStream struct {
	Error    *Error      `json:"error,omitempty"`
	Metadata http.Header `json:"metadata,omitempty"`
}

// encodeEnd describes the end of a stream. A nil error is success.
func encodeEnd(err *Error, trailer http.Header) []byte {
	end := endOfStream{Error: err, Metadata: trailer}
	if err != nil && len(err.Header) > 0 {
		end.Metadata = http.Header{}
		maps.Copy(end.Metadata, trailer)
		maps.Copy(end.Metadata, err.Header)
	}
	body, _ := json.Marshal(end) // strings always encode
	return body
}
