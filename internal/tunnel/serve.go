package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// probeAfter is how long a guest may take for what it is sent before the agent asks whether the caller is still there, which
// it does not see while it reads nothing.
const probeAfter = 500 * time.Millisecond

// bulk is what is read at once from a guest that sends a lot, and one record: less than a unix socket takes without a wait
// (Linux: 208 KiB, unless it is told otherwise), and more than half of what a guest may send ahead.
const bulk = 192 << 10

// errClosed is why a tunnel ends that its caller has closed in order.
var errClosed = errors.New("the caller has closed the tunnel")

// Tunnel is the agent's end of a tunnel that somebody asks for.
type Tunnel struct {
	Sandbox string // as the caller wrote it

	conn  net.Conn
	in    *bufio.Reader
	guest chan net.Conn // once it is open

	ctx   context.Context // ends when the caller leaves; its cause is why
	leave context.CancelCauseFunc
	left  sync.WaitGroup

	sending sync.Mutex  // of records
	stuck   atomic.Bool // the guest is being written to
	probe   *time.Timer
}

// accept begins a tunnel on a connection whose caller has said what it wants. The caller's leaving ends the context.
func accept(ctx context.Context, conn net.Conn, in *bufio.Reader, sandbox string) *Tunnel {
	t := &Tunnel{Sandbox: sandbox, conn: conn, in: in, guest: make(chan net.Conn, 1)}
	t.ctx, t.leave = context.WithCancelCause(ctx)
	t.probe = time.AfterFunc(probeAfter, t.ask)
	t.left.Go(t.up)
	return t
}

// Carry tells the caller that the tunnel is open, then moves bytes both ways until the guest has closed its
// side of conn, or the caller is gone. The end of what the caller sends is passed on, if conn can say so, and leaves the
// other way open. It closes conn. It is called once.
func (t *Tunnel) Carry(conn net.Conn) error {
	defer stop(conn)
	defer context.AfterFunc(t.ctx, func() { stop(conn) })() // up may be waiting for the guest, and sees nothing of it
	if err := t.send(open, nil); err != nil {
		return lost(err)
	}
	t.guest <- conn
	return t.down(conn)
}

// stop makes what is under way on conn fail: some connections wait for the guest's end after a Close.
func stop(conn net.Conn) {
	_ = conn.SetDeadline(past)
	_ = conn.Close() // of what was written nobody waits for an answer
}

func (t *Tunnel) send(k kind, body []byte) error {
	t.sending.Lock()
	defer t.sending.Unlock()
	_, err := send(t.conn, k, body)
	return err
}

// up moves what the caller sends, which is nothing before the tunnel is open.
func (t *Tunnel) up() {
	_, err := t.in.Peek(1)
	if err != nil {
		t.leave(lost(err))
		return
	}
	select {
	case guest := <-t.guest:
		if err := t.feed(guest); err != nil {
			t.leave(err)
		}
	case <-t.ctx.Done():
	}
}

// feed returns why the caller leaves, or nil when the guest takes no more.
func (t *Tunnel) feed(guest net.Conn) error {
	little, over := make([]byte, small), false
	for buf := little; ; {
		k, length, err := next(t.in)
		switch {
		case over && errors.Is(err, io.EOF):
			return errClosed
		case err != nil:
			return lost(err)
		case over || k != data && k != end:
			return models.Errorf(models.Invalid, "a record of kind %d has no place in a tunnel there", k)
		case k == end:
			over = true
			_ = closeWrite(guest) // of a connection that is broken the reader says so
			continue
		case length <= small:
			buf = little
		case len(buf) == small:
			buf = make([]byte, MaxData)
		}
		if _, err := io.ReadFull(t.in, buf[:length]); err != nil {
			return lost(err)
		}
		if !t.push(guest, buf[:length]) {
			// The guest reads no more. It may have said why, and its end follows.
			_ = guest.SetReadDeadline(time.Now().Add(linger))
			return nil
		}
	}
}

// push writes to the guest, for as long as that takes, and reports whether it took it. It sees to it that the caller's end is seen meanwhile.
func (t *Tunnel) push(guest net.Conn, p []byte) bool {
	t.stuck.Store(true)
	t.probe.Reset(probeAfter)
	defer t.stuck.Store(false)
	defer t.probe.Stop()
	_, err := guest.Write(p)
	return err == nil
}

// ask sends what says nothing: it fails where nobody is.
func (t *Tunnel) ask() {
	if !t.stuck.Load() {
		return
	}
	if err := t.send(data, nil); err != nil {
		t.leave(lost(err))
		return
	}
	t.probe.Reset(probeAfter)
}

// down moves what the guest sends: little at once while little comes, since most tunnels wait for their next request
// most of the time, and a lot otherwise.
func (t *Tunnel) down(guest net.Conn) error {
	little := make([]byte, headerSize+small)
	for buf := little; ; {
		n, err := guest.Read(buf[headerSize:])
		if n > 0 {
			if err := t.pass(buf[:headerSize+n]); err != nil {
				return lost(err)
			}
		}
		switch {
		case err != nil:
			return t.ended(err)
		case n < small:
			buf = little
		case len(buf) == len(little): // and it is full
			buf = make([]byte, headerSize+bulk)
		}
	}
}

// pass sends a record of data with room for its header.
func (t *Tunnel) pass(record []byte) error {
	putHeader(record, data, len(record)-headerSize)
	t.sending.Lock()
	defer t.sending.Unlock()
	_, err := t.conn.Write(record)
	return err
}

// ended explains why nothing more comes from the guest.
func (t *Tunnel) ended(err error) error {
	switch cause := context.Cause(t.ctx); {
	case errors.Is(cause, errClosed):
		return nil
	case cause != nil:
		return cause
	case errors.Is(err, io.EOF):
		return nil
	}
	return models.Errorf(models.Unavailable, "the connection to the sandbox's guest was lost").
		WithCause(fmt.Errorf("tunnel: %w", err))
}

// finish tells the caller how the tunnel has ended (err is as of grpcerr.Encode), and closes its connection once it has heard
// it. What it sends meanwhile is dropped, so that no reset overtakes that.
func (t *Tunnel) finish(err error) {
	t.leave(err)
	_ = t.conn.SetReadDeadline(past)
	t.left.Wait() // up has ended
	t.probe.Stop()
	_ = t.conn.SetReadDeadline(time.Time{})
	t.left.Go(func() { _, _ = io.Copy(io.Discard, t.conn) })
	t.sending.Lock()
	defer t.sending.Unlock()
	limit := past
	if sendEnd(t.conn, err) == nil && closeWrite(t.conn) == nil {
		limit = time.Now().Add(linger)
	}
	_ = t.conn.SetReadDeadline(limit)
	t.left.Wait()
	_ = t.conn.Close()
}
