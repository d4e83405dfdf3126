// Package models holds the nouns that the control plane and the hosts share:
// sandboxes, their states, and the coded error that crosses every boundary.
package models

import (
	"context"
	"errors"
	"fmt"
)

// Code classifies an error for whoever has to act on it. The set is closed; the
// adapters to HTTP, gRPC and exit status switch over it.
type Code string

// The codes, each with the one question that decides for it.
const (
	Invalid         Code = "invalid"         // would the same request fail on every system?
	Unauthenticated Code = "unauthenticated" // is it unknown who asks?
	Forbidden       Code = "forbidden"       // is it known, and not allowed?
	NotFound        Code = "not_found"       // does the thing named not exist for this caller?
	Conflict        Code = "conflict"        // did another request get there first?
	Precondition    Code = "precondition"    // is the thing in a state that does not allow this?
	Exhausted       Code = "exhausted"       // is a quota, limit or capacity used up?
	Unavailable     Code = "unavailable"     // may the same request succeed a moment later?
	Deadline        Code = "deadline"        // did the time allowed run out?
	Internal        Code = "internal"        // is it our fault?
)

// Error is a coded error. Message and Hint are safe to show to the user; Cause is
// for operators and never leaves the process except into its log.
type Error struct {
	Code    Code
	Message string
	Hint    string
	Cause   error
	Final   bool // see AsFinal
}

// Errorf returns a coded error whose message is formatted from format and args.
// The message reaches the user: a cause that is not fit for them goes to WithCause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that tells the user what to do about it.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithCause returns a copy of e that carries cause for the log.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// AsFinal returns a copy of e for an attempt that has left something behind for its user to look at: no client should make another one by itself.
func (e *Error) AsFinal() *Error {
	c := *e
	c.Final = true
	return &c
}

// Error returns the message and the cause, for logs.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Message
	}
	return fmt.Sprintf("%s: %v", e.Message, e.Cause)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// CodeOf returns the code of AsError(err).
func CodeOf(err error) Code { return AsError(err).Code }

// AsError returns the first coded error in err's chain. An error without one becomes
// internal, with a message that tells the user nothing and the error as its cause;
// an ended context becomes Deadline or Unavailable.
func AsError(err error) *Error {
	var coded *Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: Deadline, Message: "the time allowed for the request ran out", Cause: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: Unavailable, Message: "the request was cancelled", Cause: err}
	default:
		return &Error{Code: Internal, Message: "internal error", Cause: err}
	}
}
