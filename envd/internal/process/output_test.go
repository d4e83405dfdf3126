package process

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ring is an output that holds n segments of up to minSegment bytes.
func ring(n int) *output { return newOutput(n*(minSegment+chunkOverhead), &atomic.Int64{}) }

// piece fills one segment with letters.
func piece(letter string) []byte { return []byte(strings.Repeat(letter, minSegment)) }

func (o *output) addPieces(letters string) {
	for _, letter := range letters {
		o.add(Stdout, piece(string(letter)))
	}
}

// take reads everything that is there and says why it stopped. Pieces are shortened to their letter, gaps to their size.
func take(r *Reader) (string, error) {
	var text strings.Builder
	for {
		c, err := r.Next()
		switch {
		case err != nil:
			return text.String(), err
		case c.Gap > 0:
			fmt.Fprintf(&text, "[%d]", c.Gap/minSegment)
		case len(c.Data) == minSegment:
			text.WriteByte(c.Data[0])
		default:
			text.Write(c.Data)
		}
	}
}

func wantTake(t *testing.T, r *Reader, text string, err error) {
	t.Helper()
	if got, gotErr := take(r); got != text || !errors.Is(gotErr, err) {
		t.Errorf("read %q, %v; want %q, %v", got, gotErr, text, err)
	}
}

func attach(t *testing.T, o *output, offset int64, gaps bool) *Reader {
	t.Helper()
	r, err := o.attach(offset, gaps)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// blocked starts adding a piece and checks that this waits; the channel is closed when it does not any more.
func blocked(t *testing.T, o *output, letter string) chan struct{} {
	t.Helper()
	added := make(chan struct{})
	go func() {
		o.addPieces(letter)
		close(added)
	}()
	select {
	case <-added:
		t.Fatal("a piece too many was taken")
	case <-time.After(50 * time.Millisecond):
	}
	return added
}

func TestOwnerIsWaitedFor(t *testing.T) {
	o := ring(2)
	r := o.own()
	o.addPieces("ab")
	added := blocked(t, o, "c")
	if c, err := r.Next(); err != nil || c.Data[0] != 'a' {
		t.Fatalf("%q, %v", c.Data, err)
	}
	<-added
	o.end()
	wantTake(t, r, "bc", io.EOF)
}

// Others neither hold up the process nor the owner: they are told, or ended.
func TestOtherReadersAreNotWaitedFor(t *testing.T) {
	o := ring(2)
	owner, ended, told := o.own(), attach(t, o, -1, false), attach(t, o, -1, true)
	for _, letter := range []string{"a", "b", "c", "d"} {
		o.addPieces(letter)
		wantTake(t, owner, letter, ErrEmpty)
	}
	wantTake(t, ended, "", ErrBehind)
	wantTake(t, told, "[2]cd", ErrEmpty)
	o.addPieces("e")
	o.end()
	wantTake(t, told, "e", io.EOF)
}

// A process that waits for its owner goes on when that leaves, and nobody takes its place.
func TestOwnerLeaves(t *testing.T) {
	o := ring(1)
	r, other := o.own(), attach(t, o, 0, false)
	o.addPieces("a")
	added := blocked(t, o, "b")
	r.Close()
	select {
	case <-added:
	case <-time.After(time.Minute):
		t.Fatal("the process still waits")
	}
	o.addPieces("c")
	wantTake(t, r, "", ErrBehind)
	wantTake(t, other, "", ErrBehind)
}

func TestOffsets(t *testing.T) {
	o := ring(3)
	o.addPieces("abcd")
	o.add(Stderr, []byte("err"))
	wantTake(t, attach(t, o, 0, true), "[3]derr", ErrEmpty)
	wantTake(t, attach(t, o, 3*minSegment, true), "derr", ErrEmpty)
	wantTake(t, attach(t, o, 4*minSegment-2, true), "dderr", ErrEmpty)
	wantTake(t, attach(t, o, 4*minSegment+1, true), "rr", ErrEmpty)
	wantTake(t, attach(t, o, -1, true), "", ErrEmpty)
	if _, err := o.attach(4*minSegment+4, true); err == nil {
		t.Error("an offset beyond the end was accepted")
	}
	if o.size() != 4*minSegment+3 {
		t.Errorf("the size is %d", o.size())
	}
}

// A piece larger than the whole ring passes through it.
func TestLargerThanTheRing(t *testing.T) {
	o := newOutput(10, &atomic.Int64{})
	r := o.own()
	o.add(Stdout, []byte(strings.Repeat("x", 1000)))
	o.end()
	wantTake(t, r, strings.Repeat("x", 1000), io.EOF)
}

// Small pieces of a stream are joined while nobody has read them, and what a reader has got does not change.
func TestSmallPiecesAreJoined(t *testing.T) {
	o := ring(4)
	r := o.own()
	o.add(Stdout, []byte("a"))
	first, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		o.add(Stdout, []byte("b"))
	}
	second, err := r.Next()
	if string(first.Data) != "a" || string(second.Data) != strings.Repeat("b", 100) || err != nil {
		t.Errorf("%q, then %q, %v", first.Data, second.Data, err)
	}
}

// Pieces cost memory beside their data, and are counted as if they did.
func TestMemoryIsBounded(t *testing.T) {
	total := &atomic.Int64{}
	o := newOutput(64<<10, total)
	for i := range 100_000 {
		o.add(Stream(i%2)+Stdout, []byte("x"))
	}
	if len(o.segments) > 64<<10/minSegment || o.held > 64<<10 || total.Load() != int64(o.held) {
		t.Errorf("%d segments are held, %d and %d bytes", len(o.segments), o.held, total.Load())
	}
	o.end()
	o.release()
	if o.held != 0 || total.Load() != 0 {
		t.Errorf("%d and %d bytes are left", o.held, total.Load())
	}
}

// All rings together have a bound, within which each still passes on what comes.
func TestAllRingsAreBounded(t *testing.T) {
	total := &atomic.Int64{}
	var rings []*output
	for range 64 {
		o := newOutput(ringSize, total)
		rings = append(rings, o)
		for range 10 {
			o.add(Stdout, make([]byte, maxRead))
		}
	}
	if most := int64(ringsSize + len(rings)*(maxRead+chunkOverhead)); total.Load() > most {
		t.Errorf("%d bytes are held", total.Load())
	}
	r := attach(t, rings[63], 9*maxRead, false)
	if c, err := r.Next(); err != nil || len(c.Data) != maxRead {
		t.Errorf("the last ring has %d bytes, %v", len(c.Data), err)
	}
}

// What has ended keeps all that it held, until others need the room and nobody reads it.
func TestEndedRingYields(t *testing.T) {
	o := newOutput(ringSize, &atomic.Int64{})
	r := o.own()
	for range 3 {
		o.add(Stdout, make([]byte, maxRead))
	}
	o.yield()
	o.end()
	o.yield()
	if o.held < 3*maxRead {
		t.Errorf("%d bytes are held for a reader", o.held)
	}
	r.Close()
	if o.held < 3*maxRead {
		t.Errorf("%d bytes are held before others need the room", o.held)
	}
	o.yield()
	if o.held > maxRead+chunkOverhead || o.first() == o.written {
		t.Errorf("%d bytes are held, the last of them from %d of %d on", o.held, o.first(), o.written)
	}
}

// Two writers, an owner that must lose nothing, and others that come and go.
func TestConcurrentReaders(t *testing.T) {
	o := ring(8)
	owner := o.own()
	var writers, guests sync.WaitGroup
	for _, stream := range []Stream{Stdout, Stderr} {
		writers.Go(func() {
			for i := range 2000 {
				o.add(stream, fmt.Appendf(nil, "%d,", i))
			}
		})
	}
	for i := range 4 {
		guests.Go(func() {
			for range 50 {
				r, err := o.attach(0, i%2 == 0)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := take(r); errors.Is(err, ErrEmpty) {
					<-r.Wake()
				}
				r.Close()
			}
		})
	}
	go func() {
		writers.Wait()
		o.end()
	}()
	var got [Stderr + 1]strings.Builder
	for {
		c, err := owner.Next()
		if errors.Is(err, ErrEmpty) {
			<-owner.Wake()
			continue
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		got[c.Stream].Write(c.Data)
	}
	var want strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&want, "%d,", i)
	}
	if got[Stdout].String() != want.String() || got[Stderr].String() != want.String() {
		t.Error("the owner lost something")
	}
	owner.Close()
	guests.Wait()
}
