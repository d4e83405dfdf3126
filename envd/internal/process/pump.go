package process

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Reads start small, because most processes say little and an idle one holds the buffer,
// and grow with what arrives.
const minRead, maxRead = 4 << 10, 64 << 10

// pump carries one pipe's output into a queue.
type pump struct {
	stream Stream
	pipe   *os.File
	out    *output
	buf    []byte // what the next read may use
	ended  bool   // run has reached end of file, and the pipe is closed
}

// run copies until end of file or until the pipe's read deadline has passed and what the
// pipe then held is in the queue. It reports whether end of file was reached.
func (p *pump) run() (ended bool) {
	size := minRead
	for {
		n, err := p.copyOnce(size)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return p.drain()
		}
		if err != nil {
			return true
		}
		size = min(max(2*n, minRead), maxRead)
	}
}

// copyOnce passes on one read of at most size bytes.
func (p *pump) copyOnce(size int) (int, error) {
	if cap(p.buf) < size || cap(p.buf) > 2*size {
		p.buf = make([]byte, size)
	}
	n, err := p.pipe.Read(p.buf[:size])
	if n > 0 && p.out.add(p.stream, p.buf[:n]) {
		p.buf = nil
	}
	return n, err
}

// drain copies what is in the pipe now and no more, so that a process that keeps on
// writing into it cannot hold up the caller. It reports whether end of file was reached.
func (p *pump) drain() bool {
	left, err := p.available()
	if err != nil || p.pipe.SetReadDeadline(time.Time{}) != nil {
		return true
	}
	for left > 0 {
		n, err := p.copyOnce(min(left, maxRead))
		if err != nil {
			return true
		}
		left -= n
	}
	return false
}

// available returns how many bytes the pipe holds (ioctl_tty(2); FIONREAD is TIOCINQ).
func (p *pump) available() (int, error) {
	conn, err := p.pipe.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var ioctlErr error
	err = conn.Control(func(fd uintptr) { n, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
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
