package direct

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ahead is how much of a file is allocated at once: to make a file longer with each block takes longer than to write
// the block. Nobody else has it meanwhile.
const ahead = 16 * blockSize

// Write writes what body gives at the file's offset, which is a multiple of 4 KiB, to its end. It holds 2 MiB of
// memory. An error of body is returned as it is.
func Write(file *os.File, body io.Reader) error {
	all, free, err := newBlocks(blockSize)
	if err != nil {
		return err
	}
	defer free()
	w := &writer{file: file, full: make(chan *block, blocks), empty: make(chan *block, blocks)}
	if w.offset, err = file.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	w.direct = setDirect(file, true)
	for i := range all {
		w.empty <- &all[i]
	}
	go w.run()
	err = w.copy(body)
	close(w.full)
	for b := range w.empty {
		if err == nil {
			err = b.err
		}
	}
	if err == nil && w.allocated > w.offset {
		err = file.Truncate(w.offset)
	}
	return err
}

// writer writes blocks in the background.
type writer struct {
	file        *os.File
	direct      bool
	offset      int64 // where the next write goes
	allocated   int64 // how far the file reaches already, if that is more; negative when no more is to be allocated
	full, empty chan *block
}

// copy fills blocks until body ends or writing fails.
func (w *writer) copy(body io.Reader) error {
	for {
		b := <-w.empty
		if b.err != nil {
			return b.err
		}
		var err error
		b.n, err = Fill(b.memory, body)
		w.full <- b
		switch {
		case err == io.EOF: //nolint:errorlint // not errors.Is: see Fill
			return nil
		case err != nil:
			return err
		}
	}
}

// Fill reads from r until p is full or r fails. Unlike that of io.ReadFull, its io.EOF is always the end of r, and
// what else r fails with is returned as it is: a body that was cut off may have io.ErrUnexpectedEOF as its cause.
func Fill(p []byte, r io.Reader) (filled int, err error) {
	for filled < len(p) && err == nil {
		var n int
		n, err = r.Read(p[filled:])
		filled += n
	}
	return filled, err
}

// run returns each block when it is written.
func (w *writer) run() {
	defer close(w.empty)
	for b := range w.full {
		b.err = w.write(b.memory[:b.n])
		w.empty <- b
	}
}

// write writes the whole pages of p directly; what remains after them is the end of the file.
func (w *writer) write(p []byte) error {
	if whole := len(p) &^ (alignment - 1); w.direct && whole > 0 {
		w.allocate(int64(whole))
		n, err := w.put(p[:whole])
		if err != nil && (!refused(err) || n != 0) {
			return err
		}
		p = p[n:]
	}
	if len(p) == 0 {
		return nil
	}
	if w.direct {
		setDirect(w.file, false)
		w.direct = false
	}
	_, err := w.put(p)
	return err
}

func (w *writer) put(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.offset += int64(n)
	return n, err
}

// allocate makes the file reach beyond the next n bytes. Where there is no room for that, or a file system cannot do
// it, writing says whether there is room for the file.
func (w *writer) allocate(n int64) {
	if w.allocated < 0 || w.offset+n <= w.allocated {
		return
	}
	conn, err := w.file.SyscallConn()
	if err == nil {
		controlErr := conn.Control(func(fd uintptr) { err = unix.Fallocate(int(fd), 0, w.offset, ahead) })
		err = errors.Join(err, controlErr)
	}
	if err != nil { // a part of it may have been allocated
		w.allocated = -1
		_ = w.file.Truncate(w.offset) // as it was: if that fails, so will the writing
		return
	}
	w.allocated = w.offset + ahead
}
