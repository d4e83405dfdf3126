package process

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// minRead is the size of a buffer for little output, maxRead the most that is read at once.
const minRead, maxRead = 4 << 10, 64 << 10

// buffers are of minRead. Most processes say little, and none that is silent holds one.
var buffers = sync.Pool{New: func() any { return new([minRead]byte) }}

// pump carries one pipe's output into a queue.
type pump struct {
	stream Stream
	pipe   *os.File
	out    *output
	ended  bool // run has reached end of file, and the pipe is closed

	// What readOnce reads, and what came of it: fields, because a closure for each read would be garbage.
	limit int
	data  []byte
	err   error
}

// run copies until end of file or until the pipe's read deadline has passed and what the
// pipe then held is in the queue. It reports whether end of file was reached.
func (p *pump) run() (ended bool) {
	conn, err := p.pipe.SyscallConn()
	if err != nil {
		return true
	}
	once := p.readOnce
	for {
		_, err := p.copyOnce(conn, once, maxRead)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return p.drain(conn, once)
		}
		if err != nil {
			return true
		}
	}
}

// copyOnce passes on one read of at most limit bytes.
func (p *pump) copyOnce(conn syscall.RawConn, once func(uintptr) bool, limit int) (int, error) {
	p.limit = limit
	if err := conn.Read(once); err != nil {
		return 0, err
	}
	data := p.data
	p.data = nil
	if kept := len(data) > 0 && p.out.add(p.stream, data); !kept {
		returnBuffer(data)
	}
	return len(data), p.err
}

// readOnce reads what is there into a buffer that fits it, and reports false if there is nothing yet: RawConn then waits.
func (p *pump) readOnce(fd uintptr) bool {
	there, _ := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // the read says what is wrong
	buf := takeBuffer(min(there, p.limit))
	var n int
	for {
		if n, p.err = unix.Read(int(fd), buf[:min(len(buf), p.limit)]); !errors.Is(p.err, unix.EINTR) {
			break
		}
	}
	p.data = buf[:max(n, 0)]
	if n == 0 {
		p.err = io.EOF
	}
	if p.err != nil {
		p.data = nil
		returnBuffer(buf)
	}
	return !errors.Is(p.err, unix.EAGAIN)
}

// takeBuffer returns a buffer for n bytes.
func takeBuffer(n int) []byte {
	if n > minRead {
		return make([]byte, n)
	}
	return buffers.Get().(*[minRead]byte)[:]
}

// returnBuffer takes back what takeBuffer has returned.
func returnBuffer(buf []byte) {
	if cap(buf) == minRead {
		buffers.Put((*[minRead]byte)(buf[:minRead]))
	}
}

// drain copies what is in the pipe now and no more, so that a process that keeps on
// writing into it cannot hold up the caller. It reports whether end of file was reached.
func (p *pump) drain(conn syscall.RawConn, once func(uintptr) bool) bool {
	left, err := available(conn)
	if err != nil || p.pipe.SetReadDeadline(time.Time{}) != nil {
		return true
	}
	for left > 0 {
		n, err := p.copyOnce(conn, once, min(left, maxRead))
		if err != nil {
			return true
		}
		left -= n
	}
	return false
}

// available returns how many bytes a pipe holds (ioctl_tty(2); FIONREAD is TIOCINQ).
func available(conn syscall.RawConn) (int, error) {
	var n int
	var ioctlErr error
	err := conn.Control(func(fd uintptr) { n, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n, errors.Join(err, ioctlErr)
}

// discard reads the pipe until end of file or until it is closed, and forgets what it reads.
func (p *pump) discard() {
	buf := make([]byte, minRead)
	for {
		if _, err := p.pipe.Read(buf); err != nil {
			return
		}
	}
}
