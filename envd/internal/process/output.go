package process

import (
	"errors"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// Stream says where output came from.
type Stream uint8

// The streams of a process. One on a terminal has Terminal alone.
const (
	Stdout Stream = iota + 1
	Stderr
	Terminal
)

// Chunk is a piece of output, or says how much of it the reader cannot have any more. Data must not be changed.
type Chunk struct {
	Stream Stream
	Data   []byte
	Gap    uint64 // bytes; Data is empty then
}

const (
	// ringSize is how much output of a process is held, for readers that lag and for those that come later.
	ringSize = 256 << 10
	// endedSize is what is left of it once the process has ended and nobody reads.
	endedSize = 64 << 10
	// ringsSize bounds what all rings hold together, but each has its newest chunk in any case.
	ringsSize = 8 << 20
	// chunkOverhead is what a segment takes beside its data, rounded up, so that a process that
	// alternates between its streams is held to the same memory.
	chunkOverhead = 64
	// minSegment and maxSegment bound the memory that is taken at once for small pieces of output.
	minSegment, maxSegment = 128, 16 << 10
)

// ErrBehind ends a Reader that was too slow, and does not want to know about gaps.
var ErrBehind = errors.New("the reader fell too far behind the process's output")

// ErrEmpty is the answer of Reader.Next when nothing is there yet.
var ErrEmpty = errors.New("no output yet")

// segment is output of one stream. Its data is only appended to, in place, so that parts of it can be read
// without the lock.
type segment struct {
	stream Stream
	start  uint64 // offset in the output
	data   []byte
}

func (s *segment) end() uint64 { return s.start + uint64(len(s.data)) }
func (s *segment) cost() int   { return cap(s.data) + chunkOverhead }

// takes reports whether n more bytes find room in the segment's memory.
func (s *segment) takes(stream Stream, n int) bool {
	return s.stream == stream && cap(s.data)-len(s.data) >= n
}

// output is the ring that holds the last part of a process's output, as one sequence of bytes with offsets
// from 0. Its memory grows with use.
//
// At most one reader is the owner: when the ring is full of what the owner has not had, add blocks, so that the
// process's pipe fills and the process waits. Other readers never hold up anybody; one that lags by more than
// the ring holds learns of a gap, or is ended with ErrBehind.
type output struct {
	limit int
	total *atomic.Int64 // what all rings hold

	mu       sync.Mutex
	room     sync.Cond // on mu: the owner has read or has left
	segments []segment
	written  uint64 // the offset of what comes next
	held     int    // what segments cost
	ended    bool
	owner    *Reader
	readers  []*Reader
}

func newOutput(limit int, total *atomic.Int64) *output {
	o := &output{limit: limit, total: total}
	o.room.L = &o.mu
	return o
}

// add appends data. It blocks as the type's comment says. It reports whether it has kept data itself, which then
// must not be changed.
func (o *output) add(stream Stream, data []byte) (kept bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.segments) > 0 && o.full(stream, len(data)) {
		if o.owner != nil && o.owner.next < o.segments[0].end() {
			o.room.Wait()
			continue
		}
		o.forgetOldest()
	}
	kept = o.append(stream, data)
	o.written += uint64(len(data))
	o.wakeReaders()
	return kept
}

// full reports whether n more bytes are too many for this ring or for all together. The caller holds mu.
func (o *output) full(stream Stream, n int) bool {
	if o.segments[len(o.segments)-1].takes(stream, n) {
		return false
	}
	n = max(n, o.segmentSize()) + chunkOverhead
	return o.held+n > o.limit || o.total.Load()+int64(n) > ringsSize
}

// segmentSize is the memory for the next segment of small pieces: more than what the last one could use. The
// caller holds mu.
func (o *output) segmentSize() int {
	if len(o.segments) == 0 {
		return minSegment
	}
	return min(max(2*len(o.segments[len(o.segments)-1].data), minSegment), maxSegment, max(o.limit/4, minSegment))
}

// append puts data where there is room, or keeps it when that wastes less than half of its memory. The caller holds mu.
func (o *output) append(stream Stream, data []byte) (kept bool) {
	if n := len(o.segments); n > 0 {
		if last := &o.segments[n-1]; last.takes(stream, len(data)) {
			last.data = append(last.data, data...)
			return false
		}
	}
	kept = len(data) > cap(data)/2 && len(data) >= minSegment
	if !kept {
		data = append(make([]byte, 0, max(len(data), o.segmentSize())), data...)
	}
	added := segment{stream: stream, start: o.written, data: data}
	o.segments = append(o.segments, added)
	o.hold(added.cost())
	return kept
}

func (o *output) hold(cost int) {
	o.held += cost
	o.total.Add(int64(cost))
}

// forgetOldest drops segments[0]. The caller holds mu.
func (o *output) forgetOldest() {
	o.hold(-o.segments[0].cost())
	o.segments[0] = segment{}
	if o.segments = o.segments[1:]; len(o.segments) == 0 {
		o.segments = nil
	}
}

// first is the offset of the oldest byte that is held. The caller holds mu.
func (o *output) first() uint64 {
	if len(o.segments) == 0 {
		return o.written
	}
	return o.segments[0].start
}

// end says that no more will be added.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.shrink(endedSize)
	o.wakeReaders()
}

// shrink gives memory back if nobody reads the output of a process that has ended. The newest chunk, which may be larger than
// limit, stays: last words are what is asked for most. The caller holds mu.
func (o *output) shrink(limit int) {
	for o.ended && len(o.readers) == 0 && o.held > limit && len(o.segments) > 1 {
		o.forgetOldest()
	}
}

// release gives all memory back. Readers that are still there go on only with a gap.
func (o *output) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.segments) > 0 {
		o.forgetOldest()
	}
}

// size returns how much output there has been.
func (o *output) size() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written
}

func (o *output) wakeReaders() {
	for _, r := range o.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// own adds the owner, which has to be there before any output.
func (o *output) own() *Reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owner = o.newReader(0, false)
	return o.owner
}

// attach adds a reader from offset on, or from what comes next if that is negative. With gaps, the reader is told what it
// has missed, and otherwise ended.
func (o *output) attach(offset int64, gaps bool) (*Reader, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	from := o.written
	if offset >= 0 {
		from = uint64(offset)
	}
	if from > o.written {
		return nil, errorf(OutOfRange, "the offset %d is beyond the end of the output, %d", offset, o.written)
	}
	return o.newReader(from, gaps), nil
}

func (o *output) newReader(from uint64, gaps bool) *Reader {
	r := &Reader{out: o, wake: make(chan struct{}, 1), offset: from, next: from, gaps: gaps}
	o.readers = append(o.readers, r)
	return r
}

// Reader reads the output of one process. One goroutine at a time may use it.
type Reader struct {
	out    *output
	wake   chan struct{}
	offset uint64 // where it began
	next   uint64 // where it is
	gaps   bool
	closed bool
}

// Offset returns where in the output the reader began.
func (r *Reader) Offset() uint64 { return r.offset }

// Wake delivers a value when Next may have something new to say.
func (r *Reader) Wake() <-chan struct{} { return r.wake }

// Next returns the next chunk without waiting, or one of ErrEmpty, ErrBehind and, after the last
// chunk of a process that has ended, io.EOF.
func (r *Reader) Next() (Chunk, error) {
	o := r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	first := o.first()
	switch {
	case r.closed || r.next < first && !r.gaps:
		return Chunk{}, ErrBehind
	case r.next < first:
		gap := first - r.next
		r.next = first
		return Chunk{Gap: gap}, nil
	case r.next < o.written:
		return r.take(), nil
	case o.ended:
		return Chunk{}, io.EOF
	}
	return Chunk{}, ErrEmpty
}

// take returns what the ring holds from next on in one piece. The caller holds mu.
func (r *Reader) take() Chunk {
	o := r.out
	i := sort.Search(len(o.segments), func(i int) bool { return o.segments[i].end() > r.next })
	s := &o.segments[i]
	data := s.data[r.next-s.start : len(s.data) : len(s.data)]
	r.next = s.end()
	if r == o.owner {
		o.room.Broadcast()
	}
	return Chunk{Stream: s.stream, Data: data}
}

// Close detaches the reader; the process does not wait for it any more.
func (r *Reader) Close() {
	o := r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	o.readers = slices.DeleteFunc(o.readers, func(other *Reader) bool { return other == r })
	r.closed = true
	if r == o.owner {
		o.owner = nil
		o.room.Broadcast()
	}
	o.shrink(endedSize)
}
