package channel

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
)

// padding is written before a HELLO. It is as long as the longest frame, so it completes
// any frame that an earlier host left half written, whose trailer is then wrong.
var padding [maxFrame]byte

// Host begins a session over conn, a new connection to the guest's port, and returns it
// once the guest has answered. It waits for that until ctx ends: what is written stays
// in the port until a booting guest opens it. After an error conn is the caller's to
// close; after success it belongs to the session.
func Host(ctx context.Context, conn net.Conn) (*Session, error) {
	n := newNonce()
	l := newLink(conn)
	undo := l.interruptible(ctx)
	defer undo()
	// The guest may be blocked writing until someone reads, so both go on at once.
	wrote := make(chan error, 1)
	go func() { wrote <- writeHello(l, n) }()
	// What comes before the answer is from older sessions and may be cut anywhere, so that
	// it cannot be decoded. The nonce is new: its ACK is in none of it.
	err := l.dec.skipTo(bareFrame(ack, n))
	if err != nil {
		_ = conn.SetWriteDeadline(past)
	}
	if writeErr := <-wrote; err == nil {
		err = writeErr
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a session with the guest: %w", err)
	}
	return newSession(l, n, false), nil
}

func writeHello(l *link, n nonce) error {
	if err := l.write(padding[:]); err != nil {
		return err
	}
	return l.write(bareFrame(hello, n))
}

// newNonce returns a nonce that no session had before.
func newNonce() nonce {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails, see its documentation
		if n := nonce(binary.BigEndian.Uint64(b[:])); n.valid() {
			return n
		}
	}
}
