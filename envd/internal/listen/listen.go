// Package listen makes the listeners on which the host reaches envd: a vsock port under
// Firecracker, a virtio-serial port under QEMU, TCP for development. All of them hand
// out connections to one port of envd's, on which the same server answers.
package listen

import (
	"fmt"
	"net"
)

// Port is envd's port, on vsock and in the handshake over virtio-serial. It is the port
// of E2B's envd.
const Port = 49983

// The transports, as the kernel argument wrenn.transport names them.
const (
	TransportVsock        = "vsock"
	TransportVirtioSerial = "virtio-serial"
)

// New returns the listener of a transport of a guest.
func New(transport string) (net.Listener, error) {
	switch transport {
	case TransportVsock:
		return Vsock(Port)
	case TransportVirtioSerial:
		return VirtioSerial(PortName, Port), nil
	default:
		return nil, fmt.Errorf("unknown transport %q", transport)
	}
}

// TCP returns a listener for development, on an address like 127.0.0.1:49983.
func TCP(address string) (net.Listener, error) {
	return net.Listen("tcp", address) //nolint:noctx // no name is looked up that could take long
}

// address is the address of an end that net has no type for.
type address struct{ network, name string }

func (a address) Network() string { return a.network }
func (a address) String() string  { return a.name }
