package process

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

func out(text string) Chunk { return Chunk{Stream: Stdout, Data: []byte(text)} }

// take reads everything that is there and says why it stopped.
func take(r *Reader) (string, error) {
	var text strings.Builder
	for {
		c, err := r.Next()
		if err != nil {
			return text.String(), err
		}
		text.Write(c.Data)
	}
}

func wantTake(t *testing.T, r *Reader, text string, err error) {
	t.Helper()
	if got, gotErr := take(r); got != text || !errors.Is(gotErr, err) {
		t.Errorf("read %q, %v; want %q, %v", got, gotErr, text, err)
	}
}

// size is the limit of a queue that holds n chunks of one byte.
func size(n int) int { return n * (1 + chunkOverhead) }

func TestFirstReaderIsWaitedFor(t *testing.T) {
	o := newOutput(size(2))
	r := o.attach()
	o.add(out("a"))
	o.add(out("b"))
	added := make(chan struct{})
	go func() {
		o.add(out("c"))
		close(added)
	}()
	select {
	case <-added:
		t.Fatal("a chunk too many was taken")
	case <-time.After(50 * time.Millisecond):
	}
	if c, err := r.Next(); err != nil || string(c.Data) != "a" {
		t.Fatalf("%q, %v", c.Data, err)
	}
	<-added
	o.end()
	wantTake(t, r, "bc", io.EOF)
}

func TestOtherReadersAreNotWaitedFor(t *testing.T) {
	o := newOutput(size(2))
	first, second := o.attach(), o.attach()
	for _, text := range []string{"a", "b", "c", "d"} {
		o.add(out(text))
		if c, err := first.Next(); err != nil || string(c.Data) != text {
			t.Fatalf("%q, %v", c.Data, err)
		}
	}
	wantTake(t, second, "", ErrBehind)
	wantTake(t, first, "", ErrEmpty)
}

// When the first reader leaves, the next one takes its place and loses nothing from then on.
func TestSecondReaderBecomesFirst(t *testing.T) {
	o := newOutput(size(2))
	first, second := o.attach(), o.attach()
	o.add(out("a"))
	o.add(out("b"))
	added := make(chan struct{})
	go func() {
		o.add(out("c"))
		close(added)
	}()
	first.Close()
	select {
	case <-added:
		t.Fatal("a chunk too many was taken")
	case <-time.After(50 * time.Millisecond):
	}
	if c, err := second.Next(); err != nil || string(c.Data) != "a" {
		t.Fatalf("%q, %v", c.Data, err)
	}
	<-added
	wantTake(t, second, "bc", ErrEmpty)
	wantTake(t, first, "", ErrBehind)
}

// A process that waits for its only reader goes on when that leaves.
func TestOnlyReaderLeaves(t *testing.T) {
	o := newOutput(size(1))
	r := o.attach()
	o.add(out("a"))
	added := make(chan struct{})
	go func() {
		o.add(out("b"))
		close(added)
	}()
	select {
	case <-added:
		t.Fatal("a chunk too many was taken")
	case <-time.After(50 * time.Millisecond):
	}
	r.Close()
	select {
	case <-added:
	case <-time.After(time.Minute):
		t.Fatal("the process still waits")
	}
}

func TestKeptForTheNextReader(t *testing.T) {
	o := newOutput(size(2))
	r := o.attach()
	o.add(out("a"))
	wantTake(t, r, "a", ErrEmpty)
	r.Close()
	for _, text := range []string{"b", "c", "d"} {
		o.add(out(text))
	}
	next := o.attach()
	if next.Forgotten() != 1 {
		t.Errorf("%d bytes were forgotten", next.Forgotten())
	}
	late := o.attach()
	wantTake(t, next, "cd", ErrEmpty)
	wantTake(t, late, "", ErrEmpty)
	o.add(out("e"))
	o.end()
	wantTake(t, next, "e", io.EOF)
	wantTake(t, late, "e", io.EOF)
	if late.Forgotten() != 0 {
		t.Errorf("%d bytes were forgotten twice", late.Forgotten())
	}
}

// A chunk larger than the whole queue passes through it.
func TestLargerThanTheQueue(t *testing.T) {
	o := newOutput(10)
	r := o.attach()
	o.add(out(strings.Repeat("x", 1000)))
	o.end()
	wantTake(t, r, strings.Repeat("x", 1000), io.EOF)
}

// Small chunks cost memory too, and are counted as if they did.
func TestSmallChunksAreBounded(t *testing.T) {
	o := newOutput(64 << 10)
	for range 100_000 {
		o.add(out("x"))
	}
	if len(o.chunks) > 64<<10/chunkOverhead {
		t.Errorf("%d chunks are held", len(o.chunks))
	}
}

// Two writers, one first reader that must lose nothing, and others that come and go.
func TestConcurrentReaders(t *testing.T) {
	o := newOutput(size(8))
	first := o.attach()
	var writers, guests sync.WaitGroup
	for _, stream := range []Stream{Stdout, Stderr} {
		writers.Go(func() {
			for i := range 2000 {
				o.add(Chunk{Stream: stream, Data: fmt.Appendf(nil, "%d,", i)})
			}
		})
	}
	for range 4 {
		guests.Go(func() {
			for range 50 {
				r := o.attach()
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
		c, err := first.Next()
		if errors.Is(err, ErrEmpty) {
			<-first.Wake()
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
		t.Error("the first reader lost something")
	}
	first.Close()
}
