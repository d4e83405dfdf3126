// Package channel carries sessions of bytes over a virtio-serial port, whose ends do not
// see each other come and go.
//
// A virtio-serial port is a pipe that outlives those who use it. A host process that
// dies leaves half a message in it, the next one finds the rest of the last answer, and a
// guest that is restored from a snapshot still talks to a host of the past. So the bytes
// are put into frames, each between two copies of the nonce of its session:
//
//   - The host begins: it writes zeros, as many as the longest frame has bytes, and a
//     HELLO with a new nonce. The zeros complete what an earlier host left half written.
//     Such a frame is dropped whole, because no nonce ends with a zero.
//   - The guest reads frames. A HELLO ends the session that it had, and an ACK answers it.
//   - The host drops everything before the ACK with its nonce.
//
// No step needs a retry or a timer. A frame that is malformed or of another session ends
// the session and nothing else. A frame is delivered only once it is complete, and either
// end needs a fixed amount of memory for it whatever the peer sends.
//
// On a session runs a multiplexer (Client, Server), and each of its streams begins with
// the handshake of Firecracker's vsock (Connect, ReadConnect), so that above it nobody
// can tell the one transport from the other.
package channel
