package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// Exit statuses of `wrenn exec` beside the program's own, as timeout(1) and others use them.
const (
	statusTimedOut = 124
	statusPlatform = 125
)

// statusOf is the exit status of each code, for scripts.
var statusOf = map[wrenn.Code]int{
	wrenn.Internal: 1, wrenn.Invalid: 2, wrenn.Unauthenticated: 3, wrenn.Forbidden: 4, wrenn.NotFound: 5, wrenn.Conflict: 6,
	wrenn.Precondition: 7, wrenn.Exhausted: 8, wrenn.Unavailable: 9, wrenn.Deadline: 10,
}

const statusText = `Exit statuses

  0   it worked
  1   a fault of wrenn's own
  2   the command line or the request is wrong (invalid)
  3   there is no valid API key (unauthenticated)
  4   the key does not allow it (forbidden)
  5   there is no such thing (not_found)
  6   another request got there first (conflict)
  7   the state of the sandbox or of this machine does not allow it (precondition)
  8   a limit or the capacity is used up (exhausted)
  9   the service cannot be reached, or not now (unavailable)
  10  the time allowed ran out (deadline)
  130 interrupted

"wrenn exec" ends with the status of the program it ran (128 + n when signal n ended it). When
the program's time ran out the status is 124; when it could not be run, or its end is not
known, 125, and the reason is on standard error. "wrenn shell" ends with the status of
the shell, "wrenn up -- CMD" with that of CMD; see "wrenn help run" for code.`

func exitStatusTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-status", Short: "What the exit statuses mean", Long: statusText}
}

// exitStatus is an end that needs no words.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// withStatus is an error with an exit status of its own.
type withStatus struct {
	error
	status int
}

func (e withStatus) Unwrap() error { return e.error }

// report says what went wrong and returns the exit status.
func report(stderr io.Writer, err error) int {
	var silent exitStatus
	var own withStatus
	if err == nil {
		return 0
	}
	if errors.As(err, &silent) {
		return int(silent)
	}
	e := describe(err)
	fmt.Fprintf(stderr, "wrenn: %s\n", lines(e.Message))
	if e.Hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", lines(e.Hint))
	}
	if e.RequestID != "" && e.Code == wrenn.Internal {
		fmt.Fprintf(stderr, "request: %s\n", printable(e.RequestID))
	}
	if errors.As(err, &own) {
		return own.status
	}
	if status, known := statusOf[e.Code]; known {
		return status
	}
	return statusOf[wrenn.Internal]
}

// describe makes one kind of the service's errors, our own, and all others.
func describe(err error) wrenn.Error {
	var remote *wrenn.Error
	var local *models.Error
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return wrenn.Error{Code: wrenn.Invalid, Message: usage.Error(), Hint: "wrenn help"}
	case errors.As(err, &remote):
		e := *remote
		e.Message = err.Error()
		return e
	case errors.As(err, &local):
		return wrenn.Error{Code: wrenn.Code(local.Code), Message: err.Error(), Hint: local.Hint}
	case errors.Is(err, syscall.ECONNREFUSED):
		return wrenn.Error{Code: wrenn.Unavailable, Message: err.Error(), Hint: "is the service running? On this machine: wrenn up"}
	case isTransport(err):
		return wrenn.Error{Code: wrenn.CodeOf(err), Message: err.Error()}
	default:
		return wrenn.Error{Code: wrenn.Internal, Message: err.Error()}
	}
}

// lines keeps the line breaks of a message and nothing else that a terminal would obey.
func lines(s string) string {
	parts := strings.Split(s, "\n")
	for i := range parts {
		parts[i] = printable(parts[i])
	}
	return strings.Join(parts, "\n")
}
