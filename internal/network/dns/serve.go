package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// maxQuery is room for a question with the longest name and options.
	maxQuery = 1232
	// socketBuffer is room for what all sandboxes ask while the reader is not scheduled. The kernel may give less: net.core.rmem_max.
	socketBuffer = 4 << 20
	// streamLimit bounds the wait for a query of a stream, and for a guest that does not read its answer.
	streamLimit = 10 * time.Second
	// answerLimit bounds the work on one query: after 5 s resolvers ask again, resolv.conf(5).
	answerLimit = 5 * time.Second
)

// servePackets answers what comes over UDP, each query in a goroutine of its own.
func (f *Forwarder) servePackets(ctx context.Context, packets net.PacketConn, wg *sync.WaitGroup) {
	if socket, ok := packets.(interface{ SetReadBuffer(int) error }); ok {
		_ = socket.SetReadBuffer(socketBuffer) // a smaller one loses questions earlier when many come at once; they come again
	}
	b := make([]byte, maxQuery+1)
	for {
		n, from, err := packets.ReadFrom(b)
		switch {
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return
		case err != nil: // as ICMP messages of guests make them; the socket itself is in order
			f.log.Debug("packet of a guest not read", "error", err)
			if !pause(ctx, time.Millisecond) {
				return
			}
			continue
		case n > maxQuery:
			continue
		}
		policy, known := f.asker(from)
		if !known {
			continue
		}
		c := f.clients.get(policy.Sandbox, time.Now())
		if !f.admit(policy, c, n) {
			continue
		}
		query := bytes.Clone(b[:n])
		wg.Go(func() {
			answer := f.guarded(ctx, from, c, query, udpSize)
			if answer != nil {
				_, _ = packets.WriteTo(answer, from) // who has gone needs no answer
			}
			f.clients.done(c, len(answer), time.Now())
		})
	}
}

// serveStreams answers what comes over TCP: RFC 7766.
func (f *Forwarder) serveStreams(ctx context.Context, streams net.Listener, wg *sync.WaitGroup) {
	for {
		conn, err := streams.Accept()
		switch {
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return
		case err != nil: // too many open files, or a guest that has gone already
			f.log.Warn("connection of a guest to its name server not accepted", "error", err)
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		policy, known := f.asker(conn.RemoteAddr())
		if !known {
			_ = conn.Close()
			continue
		}
		c := f.clients.get(policy.Sandbox, time.Now())
		if !f.clients.connect(c) {
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer f.clients.disconnect(c)
			f.converse(ctx, conn, c)
		})
	}
}

// converse answers one query of a connection after the other, until that ends or ctx does, and closes it.
func (f *Forwarder) converse(ctx context.Context, conn net.Conn, c *client) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	for f.stream(ctx, conn, c) == nil {
	}
}

// stream answers one query of a connection; queries of the same one come one after the other.
func (f *Forwarder) stream(ctx context.Context, conn net.Conn, c *client) error {
	if err := conn.SetDeadline(time.Now().Add(streamLimit)); err != nil {
		return err
	}
	var length uint16
	if err := binary.Read(conn, binary.BigEndian, &length); err != nil {
		return err
	}
	if length > maxQuery {
		return fmt.Errorf("a query of %d bytes", length)
	}
	query := make([]byte, length)
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	policy, known := f.asker(conn.RemoteAddr())
	if !known || !f.admit(policy, c, len(query)) {
		return errors.New("not admitted")
	}
	answer := f.guarded(ctx, conn.RemoteAddr(), c, query, tcpSize)
	f.clients.done(c, len(answer), time.Now())
	if answer == nil {
		return errors.New("no query")
	}
	if err := conn.SetDeadline(time.Now().Add(streamLimit)); err != nil {
		return err
	}
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

// asker returns the policy of the sandbox that sent something.
func (f *Forwarder) asker(from net.Addr) (Policy, bool) {
	a, ok := from.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return Policy{}, false
	}
	return f.cfg.Host.Policy(a.AddrPort().Addr().Unmap())
}

func (f *Forwarder) admit(p Policy, c *client, n int) bool {
	if f.clients.admit(c, n, time.Now()) {
		return true
	}
	f.cfg.Host.Refused(Refusal{Sandbox: p.Sandbox, Rule: TooManyNames, Why: fmt.Sprintf(
		"the sandbox asks its name server too much: more than %d names or %d KiB in a second, or %d at once", queriesPerSecond, bytesPerSecond>>10, maxUnderWay)})
	return false
}

// guarded turns a panic into silence: one broken query must not end the others.
func (f *Forwarder) guarded(ctx context.Context, from net.Addr, c *client, query []byte, most int) (answer []byte) {
	defer func() {
		if v := recover(); v != nil {
			f.log.Error("panic over a guest's query", "panic", v, "stack", string(debug.Stack()))
			answer = nil
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	return f.answer(ctx, from, c, query, most)
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
