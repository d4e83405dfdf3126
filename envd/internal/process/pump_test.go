package process

import (
	"bytes"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// What a pipe holds when the time for its tail is over is still output, though somebody
// keeps it open; what comes later is not.
func TestDrainAfterTheDeadline(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = w.Close(), r.Close() }()
	want := bytes.Repeat([]byte("0123456789abcdef"), 60<<10/16)
	if _, err := w.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	o := newOutput(1<<20, &atomic.Int64{})
	reader := o.own()
	p := &pump{stream: Stdout, pipe: r, out: o}
	if p.run() {
		t.Error("end of file was reached")
	}
	o.end()
	wantTake(t, reader, string(want), io.EOF)
}
