package tunnel

import (
	"sync"
	"time"
)

// deadline is a moment that can be moved at any time, also while somebody waits for it.
type deadline struct {
	mu      sync.Mutex // guards all of the following
	timer   *time.Timer
	current int           // which set the timer belongs to
	passed  chan struct{} // closed when it has passed; another one after it was moved then
	strike  func()        // called when it passes, if not nil
}

func newDeadline() *deadline { return &deadline{passed: make(chan struct{})} }

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current++
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.hasPassed() {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.pass()
		return
	}
	of := d.current
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.current == of { // not moved meanwhile
			d.pass()
		}
	})
}

// pass is called with the lock held.
func (d *deadline) pass() {
	close(d.passed)
	if d.strike != nil {
		d.strike()
	}
}

func (d *deadline) hasPassed() bool {
	select {
	case <-d.passed:
		return true
	default:
		return false
	}
}

// wait returns a channel that is closed when the deadline passes, unless it is moved before.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

// guard has f called when the deadline passes, until release. It reports false if it has passed already.
func (d *deadline) guard(f func()) (release func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hasPassed() {
		return nil, false
	}
	d.strike = f
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.strike = nil
	}, true
}
