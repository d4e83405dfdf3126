package qemu

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// TestSessionWaitsForItsStart: while a VMM waits for its snapshot nothing is said to a guest that is not there, and no attempt to reach it runs out of time.
func TestSessionWaitsForItsStart(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	s := newSession("", ours)
	defer s.close()
	if err := theirs.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := theirs.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it said %d bytes, %v", n, err)
	}
	s.start()
	if err := theirs.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n, err := theirs.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("once started it said %d bytes, %v", n, err)
	}
}
