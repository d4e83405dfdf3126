package envdclient

import (
	"errors"
	"io"
	"sync"
)

// source is the body of an upload. It tells the waiting for its reader from the waiting for
// the guest, and remembers what the reader failed with.
type source struct {
	reader io.Reader
	watch  *watchdog

	mu   sync.Mutex // the transport may still read when the answer has come
	n    int64
	err  error
	over bool // the call is over: no Read of reader begins any more
}

// Read is called when the guest has taken what was read before.
func (s *source) Read(p []byte) (int, error) {
	if s.ended() {
		return 0, io.ErrClosedPipe
	}
	s.watch.rest()
	n, err := s.reader.Read(p)
	s.watch.arm()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// uploadPart is what is sent at once of a body whose size is not known: little enough that the transport writes it
// from one buffer with the marks of a chunk around it.
const uploadPart = ioBuffer - 4<<10

// WriteTo sends full parts, where io.Copy would send what each Read happens to give. The transport calls it where the
// size is not known; it sends all others as they come.
func (s *source) WriteTo(w io.Writer) (sent int64, err error) {
	part := make([]byte, uploadPart)
	for {
		n, readErr := io.ReadFull(s, part)
		if n > 0 {
			written, err := w.Write(part[:n])
			sent += int64(written)
			if err != nil {
				return sent, err
			}
		}
		switch {
		case errors.Is(readErr, io.ErrUnexpectedEOF), errors.Is(readErr, io.EOF):
			return sent, nil
		case readErr != nil:
			return sent, readErr
		}
	}
}

func (s *source) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// failure ends the source and returns what its reader failed with.
func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return s.err
}

func (s *source) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}
