package qemu

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// valve is what all goes through that the agent and QEMU's envd socket say to each other. A snapshot shuts it: QEMU takes nothing from that socket
// while the guest stands still (7.2), but as soon as somebody reads from it, writes on what the guest had in its queue, and tells the
// guest so in its memory; and also of connections that come and go. With the devices from before that and the memory from after it, the restored guest gets a
// buffer back twice ("output:id 1 is not a head!"), and its channel is dead.
type valve struct {
	// flow is held for reading by whatever passes, for writing while the valve is shut.
	flow sync.RWMutex

	mu       sync.Mutex
	shutting bool
	conn     *valvedConn // the latest connection; nil before the first
}

// past is a deadline that ends every call at once.
var past = time.Unix(1, 0)

// shut returns once nothing passes. What is written or read from then on waits for open.
func (v *valve) shut() {
	v.interrupt(true)
	v.flow.Lock()
	v.interrupt(false)
}

func (v *valve) open() { v.flow.Unlock() }

// interrupt ends the calls that are under way, which may be waiting for the guest, or lets them take their time again.
func (v *valve) interrupt(on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shutting = on
	if v.conn != nil {
		_ = v.conn.applyDeadlines() // fails where it was closed
	}
}

// through returns what connect does, as a connection through the valve. It is the only one from then on.
func (v *valve) through(connect func() (net.Conn, error)) (net.Conn, error) {
	v.flow.RLock()
	defer v.flow.RUnlock()
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn = &valvedConn{Conn: conn, valve: v}
	_ = v.conn.applyDeadlines() // a connection that knows none fails at its first read
	return v.conn, nil
}

// valvedConn is a connection through a valve.
type valvedConn struct {
	net.Conn
	valve *valve

	readBy, writeBy time.Time // the deadlines that were set; guarded by valve.mu
}

// Read implements net.Conn.
func (c *valvedConn) Read(b []byte) (int, error) {
	for {
		c.valve.flow.RLock()
		n, err := c.Conn.Read(b)
		c.valve.flow.RUnlock()
		if n > 0 || !c.interrupted(err, &c.readBy) {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *valvedConn) Write(b []byte) (written int, err error) {
	for written < len(b) {
		c.valve.flow.RLock()
		n, err := c.Conn.Write(b[written:])
		c.valve.flow.RUnlock()
		written += n
		if err != nil && !c.interrupted(err, &c.writeBy) {
			return written, err
		}
	}
	return written, nil
}

// interrupted reports whether it was the valve that ended a call with err, and not the deadline that was set.
func (c *valvedConn) interrupted(err error, deadline *time.Time) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.valve.mu.Lock()
	defer c.valve.mu.Unlock()
	return deadline.IsZero() || time.Now().Before(*deadline)
}

// Close implements net.Conn: QEMU tells the guest of it.
func (c *valvedConn) Close() error {
	c.valve.flow.RLock()
	defer c.valve.flow.RUnlock()
	return c.Conn.Close()
}

// SetDeadline implements net.Conn.
func (c *valvedConn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.readBy, &c.writeBy) }

// SetReadDeadline implements net.Conn.
func (c *valvedConn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.readBy) }

// SetWriteDeadline implements net.Conn.
func (c *valvedConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writeBy) }

func (c *valvedConn) setDeadlines(t time.Time, deadlines ...*time.Time) error {
	c.valve.mu.Lock()
	defer c.valve.mu.Unlock()
	for _, d := range deadlines {
		*d = t
	}
	return c.applyDeadlines()
}

// applyDeadlines is called with valve.mu held.
func (c *valvedConn) applyDeadlines() error {
	readBy, writeBy := c.readBy, c.writeBy
	if c.valve.shutting {
		readBy, writeBy = past, past
	}
	return errors.Join(c.Conn.SetReadDeadline(readBy), c.Conn.SetWriteDeadline(writeBy))
}
