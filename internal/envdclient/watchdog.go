package envdclient

import (
	"context"
	"net/http/httptrace"
	"sync"
	"time"
)

// watchdog ends a call when the guest is silent for too long. It is armed while it is the guest's
// turn to do something, and at rest while it is the caller's.
type watchdog struct {
	limit  time.Duration
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	done  bool
}

// newWatchdog returns a watchdog at rest that calls cancel with errSilent.
func newWatchdog(limit time.Duration, cancel context.CancelCauseFunc) *watchdog {
	return &watchdog{limit: limit, cancel: cancel}
}

// arm gives the guest the whole limit from now on.
func (w *watchdog) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(w.limit, func() { w.cancel(errSilent) })
		return
	}
	w.timer.Reset(w.limit)
}

// rest gives it any time until the next arm.
func (w *watchdog) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// stop puts it to rest for good.
func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// whenConnected calls f when the request of the context that it returns gets its connection.
func whenConnected(ctx context.Context, f func()) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { f() }})
}
