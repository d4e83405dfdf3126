package uffd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Event is what a descriptor tells: a page that somebody waits for, or memory that was given back.
type Event struct {
	Fault   uint64 // the address that was missing
	Removed Range  // whose content is gone; of no length with a fault
}

const (
	messageSize = 32
	// batch is how many messages are read at once.
	batch = 64

	kindFault  = 0x12
	kindRemove = 0x15
)

// Read returns what there is to be told: nothing, without an error, where that is nothing. Whoever gives memory back waits for it to be read.
func Read(fd int) ([]Event, error) {
	buffer := make([]byte, batch*messageSize)
	for {
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read who waits for memory: %w", err)
		}
		return parse(buffer[:n])
	}
}

func parse(messages []byte) ([]Event, error) {
	var events []Event
	for ; len(messages) >= messageSize; messages = messages[messageSize:] {
		first, second := binary.NativeEndian.Uint64(messages[8:]), binary.NativeEndian.Uint64(messages[16:])
		switch kind := messages[0]; kind {
		case kindFault: // flags, address
			events = append(events, Event{Fault: second})
		case kindRemove: // start, end
			events = append(events, Event{Removed: Range{first, second - first}})
		default:
			return events, fmt.Errorf("the kernel tells of something unknown, %#x", kind)
		}
	}
	return events, nil
}
