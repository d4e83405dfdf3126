package filesystem

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Kind classifies an Error for whoever translates it to a wire protocol.
type Kind uint8

// The kinds of errors.
const (
	// Internal: the kernel refused for a reason that is nobody's fault.
	Internal Kind = iota
	// Invalid: the request would fail whatever time it were made.
	Invalid
	// NotFound: what the path names is not there.
	NotFound
	// Exists: something is where something is to be made.
	Exists
	// Precondition: what is there does not allow it.
	Precondition
	// Denied: not even root may.
	Denied
	// Exhausted: a limit of envd or the disk is reached.
	Exhausted
)

// Error is an error that is meant for the caller. Its text is complete and safe to show.
type Error struct {
	Kind Kind
	Text string
	// Err is the kernel's error, if it was that.
	Err error
}

func (e *Error) Error() string { return e.Text }

func (e *Error) Unwrap() error { return e.Err }

func errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// kernelError describes the failure of what was done.
func kernelError(what string, err error) *Error {
	return &Error{Kind: kindOf(err), Text: what + ": " + errnoText(err), Err: err}
}

// kinds are the kernel's errors whose kind is not Internal.
var kinds = map[syscall.Errno]Kind{
	syscall.ENOENT: NotFound, syscall.EEXIST: Exists, syscall.ENOTEMPTY: Exists,
	syscall.ENOTDIR: Invalid, syscall.EISDIR: Invalid, syscall.EINVAL: Invalid, syscall.ENAMETOOLONG: Invalid,
	syscall.ELOOP: Precondition, syscall.EROFS: Precondition, syscall.EBUSY: Precondition, syscall.EXDEV: Precondition,
	syscall.EACCES: Denied, syscall.EPERM: Denied,
	syscall.ENOSPC: Exhausted, syscall.EDQUOT: Exhausted, syscall.EMFILE: Exhausted, syscall.ENFILE: Exhausted,
}

func kindOf(err error) Kind {
	var coded *Error
	if errors.As(err, &coded) {
		return coded.Kind
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return kinds[errno]
	}
	return Internal
}

// errnoText is the kernel's part of an error, without internal paths and operations.
func errnoText(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// notDirectory is the error of a path that leads through a file.
func notDirectory(path string) error {
	return &os.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
}
