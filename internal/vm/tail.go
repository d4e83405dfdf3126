package vm

import (
	"slices"
	"sync"
)

// Tail keeps the last bytes that are written to it in memory: what a driver needs to say why a VM ended, whatever became of
// the files. The zero value keeps 16 KiB.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 16 << 10

// Write appends p, and never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[max(0, len(p)-tailSize):]...)
	if len(t.text) > 2*tailSize { // not each time, so that bytes are moved once only
		t.text = slices.Clone(t.text[len(t.text)-tailSize:])
	}
	return len(p), nil
}

// Bytes returns a copy of what is kept.
func (t *Tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.text[max(0, len(t.text)-tailSize):])
}
