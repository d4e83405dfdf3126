package channel

import (
	"context"
	"errors"
	"fmt"
)

// Guest is the guest's end of the port, which stays open while hosts come and go.
type Guest struct {
	link    *link
	current *Session
}

// NewGuest returns the guest's end of port. Reads of port must block while no host is
// connected, and not report the end of the file.
func NewGuest(port Port) *Guest {
	return &Guest{link: newLink(port)}
}

// Accept waits until the session that it returned before has ended, then for the next
// HELLO, answers it and returns its session. Bytes that belong to no session are dropped.
// It must not be called at the same time as itself. An error that is not ctx's is the
// port's, and lasts.
func (g *Guest) Accept(ctx context.Context) (*Session, error) {
	if g.current != nil {
		select {
		case <-g.current.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	g.link.readMu.Lock()
	defer g.link.readMu.Unlock()
	undo := g.link.interruptible(ctx)
	defer undo()
	session, err := g.accept()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("accept a session of the host: %w", err)
	}
	g.current = session
	return session, nil
}

// accept answers the next HELLO. Its caller holds link.readMu.
func (g *Guest) accept() (*Session, error) {
	n, err := g.awaitHello()
	if err != nil {
		return nil, err
	}
	if err := g.link.write(bareFrame(ack, n)); err != nil {
		return nil, err
	}
	return newSession(g.link, n, true), nil
}

// awaitHello returns the nonce of the next HELLO, which may have come already.
func (g *Guest) awaitHello() (nonce, error) {
	if n := g.link.pending; n != 0 {
		g.link.pending = 0
		return n, nil
	}
	for {
		f, err := g.link.dec.next()
		switch {
		case errors.Is(err, errFrame):
		case err != nil:
			return 0, err
		case f.kind == hello:
			return f.nonce, nil
		}
	}
}
