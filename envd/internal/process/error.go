package process

import "fmt"

// Kind classifies an Error for whoever translates it to a wire protocol.
type Kind uint8

// The kinds of errors.
const (
	// Invalid: the request would fail on every system in this state of its files.
	Invalid Kind = iota + 1
	// NotFound: no such process runs.
	NotFound
	// Ended: the process or its standard input has ended.
	Ended
	// Exhausted: a limit of the guest is reached.
	Exhausted
	// OutOfRange: there is no such place in a process's output.
	OutOfRange
	// Unavailable: the guest is ending.
	Unavailable
)

// Error is an error that is meant for the caller. Its text is complete and safe to show.
type Error struct {
	Kind Kind
	Text string
}

func errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return e.Text }

var errShutdown = errorf(Unavailable, "the sandbox is shutting down")
