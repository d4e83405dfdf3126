package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
)

// pumpPiece is how much is read at a time.
const pumpPiece = 64 << 10

// pump reads on behalf of one request after the other: a read of standard input cannot be called off, and what
// it gives belongs to whichever request is there then.
type pump struct {
	pieces chan []byte // closed at the end

	mu  sync.Mutex
	err error // other than the end
}

// newPump begins to read. What it has begun ends with the process.
func newPump(r io.Reader) *pump {
	p := &pump{pieces: make(chan []byte)}
	go func() {
		defer close(p.pieces)
		for {
			buf := make([]byte, pumpPiece)
			n, err := r.Read(buf)
			if n > 0 {
				p.pieces <- buf[:n]
			}
			if err != nil {
				p.fail(err)
				return
			}
		}
	}()
	return p
}

func (p *pump) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.Is(err, io.EOF) {
		p.err = err
	}
}

// failed returns why the reading ended, nil for the input's end or none yet.
func (p *pump) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// body is what comes from now on, for one request.
func (p *pump) body(ctx context.Context) *pumpBody {
	return &pumpBody{pump: p, ctx: ctx, closed: make(chan struct{})}
}

// pumpBody takes pieces until its request ends, which closes it.
type pumpBody struct {
	pump   *pump
	ctx    context.Context
	once   sync.Once
	closed chan struct{}

	reading sync.Mutex // held by Read; guards the following
	rest    []byte
	any     bool
}

// Read takes the next piece. It returns soon after the request has ended, and takes nothing after that.
func (b *pumpBody) Read(to []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if len(b.rest) == 0 {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n := copy(to, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *pumpBody) next() error {
	select {
	case <-b.closed:
		return io.ErrClosedPipe
	default:
	}
	select {
	case piece, more := <-b.pump.pieces:
		if !more {
			return cmp.Or(b.pump.failed(), io.EOF)
		}
		b.any, b.rest = true, piece
		return nil
	case <-b.closed:
		return io.ErrClosedPipe
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// Close ends a Read that waits.
func (b *pumpBody) Close() error { //nolint:unparam // io.Closer has it
	b.once.Do(func() { close(b.closed) })
	return nil
}

// taken closes the body and tells whether any input was taken, which is lost if the request failed.
func (b *pumpBody) taken() bool {
	_ = b.Close() // it never fails
	b.reading.Lock()
	defer b.reading.Unlock()
	return b.any
}
