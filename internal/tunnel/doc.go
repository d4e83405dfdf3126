// Package tunnel carries connections to guests between control plane and host agent, both ends of it.
//
// Each has a connection of its own to the address of the agent, where Server tells it from gRPC's by its first byte. The caller
// sends the preface, then both send records: a byte that says of what kind, three with the length of what follows, and that.
//
//	caller   open    a TunnelRequest
//	agent    open    nothing: the guest has taken the connection, or
//	         failed  a google.rpc.Status with the coded error, as in gRPC; nothing follows
//	both     data    at most MaxData bytes, also none
//	         end     nothing: of what this side sends. The agent's is the end of the tunnel
//
// A caller that closes the tunnel shuts down its side of the connection after its end; one that shuts it down without has
// broken off, and so has an agent whose last record is neither end nor failed. So every end is told from an accident, over TCP
// (where a reset may overtake what was sent) and over unix sockets (which have none to choose) alike. Deadlines and
// back-pressure are the connection's own: a tunnel that nobody reads holds up no other.
package tunnel

import (
	"errors"
	"net"
	"time"
)

const (
	// MaxData is the most that one record carries.
	MaxData = 256 << 10
	// linger is how long an end that was told to stop may take to do so before it is stopped.
	linger = 5 * time.Second
	// small is what most reads get.
	small = 4 << 10
)

// past is a deadline that ends what is under way.
var past = time.Unix(1, 0)

// closeWrite says on conn that nothing more comes, where it can.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
