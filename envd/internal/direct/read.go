package direct

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Send writes n bytes of file, from its offset on, to w. It holds 2 MiB of memory, or 4 while few others do.
// A file that ends before gives io.ErrUnexpectedEOF.
func Send(w io.Writer, file *os.File, n int64) (sent int64, err error) {
	offset, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	size, done := share()
	defer done()
	all, free, err := newBlocks(size)
	if err != nil {
		return 0, err
	}
	r := &reader{file: file, full: make(chan *block, blocks), empty: make(chan *block, blocks)}
	r.direct = setDirect(file, true)
	for i := range all {
		r.empty <- &all[i]
	}
	go r.run(offset&^(alignment-1), offset+n)
	sent, err = r.copy(w, int(offset%alignment), n)
	close(r.empty)
	for range r.full { // until run has ended
	}
	free()
	return sent, err
}

// large has one for each that reads in large blocks. Many at once would take the memory of the guest's programs.
var large = make(chan struct{}, 2)

// share returns the size of a reader's blocks. The caller calls done once it has freed them.
func share() (size int, done func()) {
	select {
	case large <- struct{}{}:
		return largeSize, func() { <-large }
	default:
		return blockSize, func() {}
	}
}

// reader reads blocks ahead in the background.
type reader struct {
	file        *os.File
	direct      bool
	full, empty chan *block
}

// run reads from offset, which begins a page, to end.
func (r *reader) run(offset, end int64) {
	defer close(r.full)
	for offset < end {
		b, more := <-r.empty
		if !more {
			return
		}
		pages := (end - offset + alignment - 1) &^ (alignment - 1)
		b.n, b.err = r.read(b.memory[:min(int64(len(b.memory)), pages)], offset)
		offset += int64(b.n)
		r.full <- b
		if b.err != nil {
			return
		}
	}
}

// read fills p, or says why it could not.
func (r *reader) read(p []byte, offset int64) (int, error) {
	if r.direct {
		n, err := pread(r.file, p, offset)
		if !refused(err) {
			return n, err
		}
		setDirect(r.file, false)
		r.direct = false
	}
	return r.file.ReadAt(p, offset)
}

// pread reads once, which is short at the end of a file only: there File.ReadAt would go on, at an offset that O_DIRECT
// refuses.
func pread(file *os.File, p []byte, offset int64) (n int, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := conn.Control(func(fd uintptr) {
		for {
			if n, err = unix.Pread(int(fd), p, offset); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if err := errors.Join(err, controlErr); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// copy sends n bytes of what run reads, but for the first skip bytes.
func (r *reader) copy(w io.Writer, skip int, n int64) (sent int64, err error) {
	for b := range r.full {
		part := b.memory[min(skip, b.n):b.n]
		part = part[:min(int64(len(part)), n-sent)]
		skip = 0
		written, err := w.Write(part)
		sent += int64(written)
		switch {
		case err != nil:
			return sent, err
		case sent == n:
			return sent, nil
		case errors.Is(b.err, io.EOF):
			return sent, io.ErrUnexpectedEOF
		case b.err != nil:
			return sent, b.err
		}
		r.empty <- b
	}
	return sent, nil // n is 0
}
