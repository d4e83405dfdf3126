package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
)

// maxDocument bounds one metrics document; Firecracker's have some 20 KiB.
const maxDocument = 1 << 20

// documents keeps the last complete JSON document of those that are written to it, one a line. A line that the
// pipe had no room for arrives in part; it is no JSON, and is dropped.
type documents struct {
	mu      sync.Mutex
	line    []byte
	tooLong bool // the line is, and only its beginning is there
	last    json.RawMessage
	changed chan struct{} // closed with the next document; nil when nobody waits
}

func (d *documents) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		d.tooLong = d.tooLong || len(d.line)+len(part) > maxDocument
		if !d.tooLong {
			d.line = append(d.line, part...)
		}
		if ended {
			d.take()
		}
	}
	return len(p), nil
}

// take ends the line.
func (d *documents) take() {
	if !d.tooLong && json.Valid(d.line) {
		d.last = bytes.Clone(d.line)
		if d.changed != nil {
			close(d.changed)
			d.changed = nil
		}
	}
	d.line, d.tooLong = d.line[:0], false
}

// next returns a channel that is closed with the next document.
func (d *documents) next() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

func (d *documents) latest() json.RawMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// Metrics asks Firecracker for its metrics and returns them. Counters in it say what was added since the last document, which
// may be another caller's, or the one that Firecracker writes each minute by itself.
func (v *VM) Metrics(ctx context.Context) (json.RawMessage, error) {
	next := v.out.documents.next()
	if err := v.api.Act(ctx, api.FlushMetrics); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	select {
	case <-next:
		return v.out.documents.latest(), nil
	case <-v.done:
		return nil, fmt.Errorf("metrics: %w", v.exitError())
	case <-v.released:
		return nil, fmt.Errorf("metrics: %w", vm.ErrReleased)
	case <-ctx.Done():
		return nil, fmt.Errorf("metrics: %w", ctx.Err())
	}
}
