// Package qmp is a client of the QEMU Machine Protocol, version 2: JSON messages, one a line, over a unix socket.
//
// See QEMU's docs/interop/qmp-spec.txt. The other end is a process that a hostile guest may have taken over; whatever it
// sends costs a bounded amount of memory and ends at worst the connection.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLine bounds one message. The longest that QEMU sends, the answer to query-qmp-schema, has about 200 KiB.
	maxLine = 1 << 20
	// maxEvents is how many events are kept for a reader that is slow; the oldest are dropped.
	maxEvents = 64
	// timeout bounds a command whose context has no deadline of its own.
	timeout = 10 * time.Second
)

// ErrClosed is the error of a command whose connection ended before its answer came.
var ErrClosed = errors.New("the QMP connection is closed")

// Error is QEMU's answer to a command that it could not carry out.
type Error struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *Error) Error() string { return e.Description }

// Event is something that QEMU reports by itself.
type Event struct {
	Name string
	Data json.RawMessage
}

// Client is one connection. All methods may be called at the same time.
type Client struct {
	conn   net.Conn
	events chan Event
	done   chan struct{} // closed when reading has ended

	writing chan struct{} // holds one token: whoever has it may write

	mu      sync.Mutex
	last    uint64                 // the id of the last command
	waiting map[uint64]chan answer // by command; nil once reading has ended
}

type answer struct {
	result json.RawMessage
	err    error
}

// message is whatever QEMU sends.
type message struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   json.RawMessage  `json:"return"`
	Error    *Error           `json:"error"`
	ID       uint64           `json:"id"`
	Event    string           `json:"event"`
	Data     json.RawMessage  `json:"data"`
}

// New waits for QEMU's greeting on conn and makes it ready for commands. It takes over conn, and closes it on failure.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:    conn,
		events:  make(chan Event, maxEvents),
		done:    make(chan struct{}),
		writing: make(chan struct{}, 1),
		waiting: make(map[uint64]chan answer),
	}
	c.writing <- struct{}{}
	greeted := make(chan struct{})
	go c.read(greeted)
	if err := c.negotiate(ctx, greeted); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) negotiate(ctx context.Context, greeted <-chan struct{}) error {
	select {
	case <-greeted:
	case <-c.done:
		return fmt.Errorf("wait for QEMU's greeting: %w", ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("wait for QEMU's greeting: %w", ctx.Err())
	}
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Close ends the connection and waits until nothing reads from it any more.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed once the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Events returns the events in the order they came. It is closed when the connection has ended; a
// reader that is more than 64 behind loses the oldest ones.
func (c *Client) Events() <-chan Event { return c.events }

// Execute runs a command and decodes its answer into result, unless that is nil. The error is an *Error if QEMU refused.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.run(ctx, request{Execute: command, Arguments: arguments}, result)
}

// ExecuteWithFile is Execute of a command that takes a descriptor from its socket, which is what it becomes of file. The caller
// keeps and closes its own.
func (c *Client) ExecuteWithFile(ctx context.Context, command string, arguments any, file *os.File, result any) error {
	return c.run(ctx, request{Execute: command, Arguments: arguments, file: file}, result)
}

func (c *Client) run(ctx context.Context, r request, result any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	got, err := c.execute(ctx, r)
	if err != nil {
		return fmt.Errorf("QMP %s: %w", r.Execute, err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(got, result); err != nil {
		return fmt.Errorf("QMP %s: answer: %w", r.Execute, err)
	}
	return nil
}

func (c *Client) execute(ctx context.Context, r request) (json.RawMessage, error) {
	id, reply, err := c.expect()
	if err != nil {
		return nil, err
	}
	defer c.forget(id)
	r.ID = id
	if err := c.send(ctx, r); err != nil {
		return nil, err
	}
	select {
	case a := <-reply:
		return a.result, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
	file      *os.File
}

// send ends the connection when the message went out in part only.
func (c *Client) send(ctx context.Context, r request) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	select {
	case <-c.writing:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { c.writing <- struct{}{} }()
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return errors.Join(ErrClosed, err)
	}
	if err := c.write(append(text, '\n'), r.file); err != nil {
		c.conn.Close()
		return errors.Join(ErrClosed, err)
	}
	return nil
}

// write sends text, with file, unless that is nil, as ancillary data of its first byte: unix(7), SCM_RIGHTS.
func (c *Client) write(text []byte, file *os.File) error {
	if file == nil {
		_, err := c.conn.Write(text)
		return err
	}
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return errors.New("only a unix socket carries descriptors")
	}
	n, _, err := conn.WriteMsgUnix(text, unix.UnixRights(int(file.Fd())), nil)
	if err == nil && n < len(text) {
		_, err = conn.Write(text[n:])
	}
	return err
}

func (c *Client) expect() (uint64, <-chan answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return 0, nil, ErrClosed
	}
	c.last++
	reply := make(chan answer, 1)
	c.waiting[c.last] = reply
	return c.last, reply, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// read ends with the connection, or at the first message that is malformed or too long.
func (c *Client) read(greeted chan<- struct{}) {
	defer close(c.done)
	defer close(c.events)
	defer c.failAll()
	defer c.conn.Close()
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 4096), maxLine)
	for lines.Scan() {
		var m message
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return
		}
		if m.Greeting != nil && greeted != nil {
			close(greeted)
			greeted = nil
		}
		c.dispatch(m)
	}
}

func (c *Client) dispatch(m message) {
	switch {
	case m.Event != "":
		c.keepEvent(Event{Name: m.Event, Data: m.Data})
	case m.Error != nil:
		c.answer(m.ID, answer{err: m.Error})
	case m.Return != nil:
		c.answer(m.ID, answer{result: m.Return})
	}
}

// answer ignores answers that nobody waits for.
func (c *Client) answer(id uint64, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reply := c.waiting[id]; reply != nil {
		delete(c.waiting, id) // a second answer must not block
		reply <- a
	}
}

// keepEvent is called by one goroutine only.
func (c *Client) keepEvent(e Event) {
	for {
		select {
		case c.events <- e:
			return
		default:
		}
		select {
		case <-c.events:
		default:
		}
	}
}

func (c *Client) failAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, reply := range c.waiting {
		reply <- answer{err: ErrClosed}
	}
	c.waiting = nil
}
