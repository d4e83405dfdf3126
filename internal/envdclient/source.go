package envdclient

import (
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
