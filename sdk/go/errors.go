package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Code classifies an error. New codes may appear: treat one that is unknown like Internal.
type Code string

// The codes of errors.
const (
	Invalid         Code = "invalid"         // the request is wrong in itself
	Unauthenticated Code = "unauthenticated" // no key, or not a valid one
	Forbidden       Code = "forbidden"       // the key or the guest's user may not do it
	NotFound        Code = "not_found"       // there is no such thing in this account
	Conflict        Code = "conflict"        // another request got there first
	Precondition    Code = "precondition"    // the state of the sandbox does not allow it
	Exhausted       Code = "exhausted"       // a limit or the capacity is used up
	Unavailable     Code = "unavailable"     // the same request may succeed a moment later
	Deadline        Code = "deadline"        // the time allowed ran out
	Internal        Code = "internal"        // a fault of the service
)

// Error is an error that the service answered with, or that the client found before
// it sent anything (Status is 0 then).
type Error struct {
	Code      Code
	Message   string
	Hint      string // what can be done about it; may be empty
	RequestID string // names the request in the logs of the service
	Status    int    // of HTTP
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// CodeOf returns the code of err: that of an *Error in its chain, Deadline for an expired
// context, Unavailable for a service that cannot be reached, "" for nil.
func CodeOf(err error) Code {
	var coded *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &coded):
		return coded.Code
	case errors.Is(err, context.DeadlineExceeded):
		return Deadline
	default:
		return Unavailable
	}
}

func invalid(format string, args ...any) *Error {
	return &Error{Code: Invalid, Message: fmt.Sprintf(format, args...)}
}

// maxErrorBody is the most that is read of an error response.
const maxErrorBody = 64 << 10

// readError makes an Error of a response. One that is not of the service's form, such
// as a proxy's, gets the code that its status stands for.
func readError(resp *http.Response) *Error {
	var body struct {
		Error struct {
			Code      Code   `json:"code"`
			Message   string `json:"message"`
			Hint      string `json:"hint"`
			RequestID string `json:"request_id"`
		} `json:"error"`
	}
	e := &Error{Status: resp.StatusCode, RequestID: resp.Header.Get("X-Request-Id")}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err == nil && json.Unmarshal(b, &body) == nil && body.Error.Code != "" {
		e.Code, e.Message, e.Hint = body.Error.Code, body.Error.Message, body.Error.Hint
		if body.Error.RequestID != "" {
			e.RequestID = body.Error.RequestID
		}
		return e
	}
	e.Code = codeOfStatus(resp.StatusCode)
	e.Message = fmt.Sprintf("the service answered %s without an explanation", resp.Status)
	return e
}

func codeOfStatus(status int) Code {
	switch status {
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusForbidden:
		return Forbidden
	case http.StatusNotFound:
		return NotFound
	case http.StatusConflict:
		return Conflict
	case http.StatusTooManyRequests:
		return Exhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return Unavailable
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return Deadline
	}
	if status >= 400 && status < 500 {
		return Invalid
	}
	return Internal
}
