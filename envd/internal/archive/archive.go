// Package archive turns a directory of the guest into a tar stream and back.
//
// Nothing is kept per entry but the names of files with several links, of which there is a limit; so
// an archive may have any number of entries, and files of any size, in the same memory. The disk is
// what limits what is unpacked.
package archive

import (
	"errors"
	"fmt"
	"sync"
)

// ErrRefused is wrapped by the error of an entry that is not unpacked whatever the state of the disk.
var ErrRefused = errors.New("refused")

// ErrStream is wrapped by the failure to read an archive, as opposed to what it asks for.
var ErrStream = errors.New("malformed or incomplete archive")

// Error says which entry failed.
type Error struct {
	Entry string // relative to the directory; as the archive has it where that is refused
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("entry '%s': %v", e.Entry, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// bufferSize is how much of a file is held at a time, and the least that becomes a hole.
const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}
