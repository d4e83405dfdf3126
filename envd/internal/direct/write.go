package direct

import (
	"io"
	"os"
)

// Write writes what body gives at the file's offset, which is a multiple of 4 KiB, to its end. It holds 1 MiB of
// memory. An error of body is returned as it is.
func Write(file *os.File, body io.Reader) error {
	all, free, err := newBlocks()
	if err != nil {
		return err
	}
	w := &writer{file: file, direct: setDirect(file, true), full: make(chan *block, blocks), empty: make(chan *block, blocks)}
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
	free()
	return err
}

// writer writes blocks in the background.
type writer struct {
	file        *os.File
	direct      bool
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
		case err == io.EOF: // not errors.Is: see Fill
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
		n, err := w.file.Write(p[:whole])
		if err != nil && !(refused(err) && n == 0) {
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
	_, err := w.file.Write(p)
	return err
}
