package process

import (
	"errors"
	"io"
	"slices"
	"sync"
)

// Stream says where output came from.
type Stream uint8

// The streams of a process.
const (
	Stdout Stream = iota + 1
	Stderr
)

// Chunk is a piece of output. Data must not be changed.
type Chunk struct {
	Stream Stream
	Data   []byte
}

// chunkOverhead is what a chunk takes beside its data, rounded up, so that a process that
// writes single bytes is held to the same memory.
const chunkOverhead = 64

func (c Chunk) cost() int { return len(c.Data) + chunkOverhead }

// ErrBehind ends a Reader that was too slow and was not the one the process waits for.
var ErrBehind = errors.New("the reader fell too far behind the process's output")

// ErrEmpty is the answer of Reader.Next when nothing is there yet.
var ErrEmpty = errors.New("no output yet")

// output is a bounded queue from a process to any number of readers.
//
// The reader that has been attached longest is the first reader. When the queue is full
// and the first reader is the one that holds it up, add blocks, so that the process's
// pipe fills and the process waits: the first reader loses nothing. Other readers never hold
// up anybody; one that lags by more than limit is ended with ErrBehind. Without readers the
// queue keeps the newest output for the next one and counts what it forgets.
type output struct {
	limit int // bytes

	mu        sync.Mutex
	room      sync.Cond // on mu: something left the queue, or the first reader changed
	chunks    []Chunk
	start     uint64 // the number of chunks[0], counted from the process's first
	held      int    // what chunks cost
	forgotten int64
	ended     bool
	readers   []*Reader // in the order they attached
}

func newOutput(limit int) *output {
	o := &output{limit: limit}
	o.room.L = &o.mu
	return o
}

// add appends a chunk. It blocks as the type's comment says.
func (o *output) add(c Chunk) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.chunks) > 0 && o.held+c.cost() > o.limit {
		if len(o.readers) > 0 && o.readers[0].next == o.start {
			o.room.Wait()
			continue
		}
		o.forgetOldest()
	}
	o.chunks = append(o.chunks, c)
	o.held += c.cost()
	o.wakeReaders()
}

// forgetOldest drops chunks[0] and ends the readers that have not had it. The caller holds mu.
func (o *output) forgetOldest() {
	o.readers = slices.DeleteFunc(o.readers, func(r *Reader) bool {
		r.behind = r.next == o.start
		return r.behind
	})
	if len(o.readers) == 0 {
		o.forgotten += int64(len(o.chunks[0].Data))
	}
	o.drop(1)
}

// drop removes the first n chunks. The caller holds mu.
func (o *output) drop(n int) {
	for i := range n {
		o.held -= o.chunks[i].cost()
		o.chunks[i] = Chunk{}
	}
	o.start += uint64(n)
	if o.chunks = o.chunks[n:]; len(o.chunks) == 0 {
		o.chunks = nil
	}
}

// trim drops what every reader has had. The caller holds mu.
func (o *output) trim() {
	if len(o.readers) == 0 {
		return
	}
	least := o.readers[0].next
	for _, r := range o.readers[1:] {
		least = min(least, r.next)
	}
	if least > o.start {
		o.drop(int(least - o.start))
		o.room.Broadcast()
	}
}

// end says that no more will be added.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.wakeReaders()
}

func (o *output) wakeReaders() {
	for _, r := range o.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// attach adds a reader. The only reader gets what the queue has kept, and learns how many
// bytes were forgotten while there was none; a further one starts with what comes next.
func (o *output) attach() *Reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &Reader{out: o, wake: make(chan struct{}, 1), next: o.start}
	if len(o.readers) > 0 {
		r.next += uint64(len(o.chunks))
	} else {
		r.forgotten, o.forgotten = o.forgotten, 0
	}
	o.readers = append(o.readers, r)
	return r
}

// Reader reads the output of one process. One goroutine at a time may use it.
type Reader struct {
	out       *output
	wake      chan struct{}
	next      uint64 // number of the chunk it has not had yet
	behind    bool   // or closed
	forgotten int64
}

// Forgotten returns how many bytes of output were lost because nobody was attached.
func (r *Reader) Forgotten() int64 { return r.forgotten }

// Wake delivers a value when Next may have something new to say.
func (r *Reader) Wake() <-chan struct{} { return r.wake }

// Next returns the next chunk without waiting, or one of ErrEmpty, ErrBehind and, after the last
// chunk of a process that has ended, io.EOF.
func (r *Reader) Next() (Chunk, error) {
	o := r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	i := int(r.next - o.start)
	switch {
	case r.behind:
		return Chunk{}, ErrBehind
	case i < len(o.chunks):
		c := o.chunks[i]
		r.next++
		o.trim()
		return c, nil
	case o.ended:
		return Chunk{}, io.EOF
	}
	return Chunk{}, ErrEmpty
}

// Close detaches the reader; the process does not wait for it any more.
func (r *Reader) Close() {
	o := r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	o.readers = slices.DeleteFunc(o.readers, func(other *Reader) bool { return other == r })
	r.behind = true
	o.trim()
	o.room.Broadcast()
}
