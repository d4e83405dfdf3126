package guestapp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// bulkBuffer is what is read or written at once.
const bulkBuffer = 256 << 10

// Send has the guest take size bytes of zeros from a connection to DiscardPort, and returns once it has them
// all. A connection serves any number of them.
func Send(conn net.Conn, size int64) error {
	if err := order(conn, size); err != nil {
		return err
	}
	if err := give(conn, size); err != nil {
		return fmt.Errorf("send to the guest: %w", err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the guest to have it all: %w", err)
	}
	return nil
}

// Receive has the guest send size bytes over a connection to SourcePort, and drops them. A connection serves any
// number of them.
func Receive(conn net.Conn, size int64) error {
	if err := order(conn, size); err != nil {
		return err
	}
	if err := take(conn, size); err != nil {
		return fmt.Errorf("receive from the guest: %w", err)
	}
	return nil
}

// order is how a transfer begins at either port: with its size, in eight bytes, big-endian.
func order(conn net.Conn, size int64) error {
	if err := binary.Write(conn, binary.BigEndian, size); err != nil {
		return fmt.Errorf("order %d bytes: %w", size, err)
	}
	return nil
}

// discard answers each transfer with a byte.
func discard(conn net.Conn) {
	for size := int64(0); binary.Read(conn, binary.BigEndian, &size) == nil; {
		if take(conn, size) != nil {
			return
		}
		if _, err := conn.Write([]byte{0}); err != nil {
			return
		}
	}
}

func source(conn net.Conn) {
	for size := int64(0); binary.Read(conn, binary.BigEndian, &size) == nil; {
		if give(conn, size) != nil {
			return
		}
	}
}

func take(conn net.Conn, size int64) error {
	buffer := make([]byte, bulkBuffer)
	for size > 0 {
		n, err := conn.Read(buffer[:min(size, bulkBuffer)])
		size -= int64(n)
		if err != nil && size > 0 {
			return err
		}
	}
	return nil
}

func give(conn net.Conn, size int64) error {
	buffer := make([]byte, bulkBuffer)
	for ; size > 0; size -= bulkBuffer {
		if _, err := conn.Write(buffer[:min(size, bulkBuffer)]); err != nil {
			return err
		}
	}
	return nil
}
