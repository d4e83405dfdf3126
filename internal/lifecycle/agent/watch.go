package agent

import "sync"

// backlog is how many changes a watcher may be behind before it is cut off. It then
// starts again with a full list, so nothing is missed.
const backlog = 256

// hub hands every change to every watcher, and never waits for one.
type hub struct {
	mu       sync.Mutex // guards what follows
	watchers map[chan Sandbox]struct{}
	closed   bool
}

func newHub() *hub { return &hub{watchers: map[chan Sandbox]struct{}{}} }

func (h *hub) publish(s Sandbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		select {
		case w <- s:
		default:
			h.drop(w)
		}
	}
}

// publish tells the watchers what a sandbox is now.
func (a *Agent) publish(s *sandbox) {
	if !s.hidden {
		a.changes.publish(s.view())
	}
}

func (h *hub) subscribe() chan Sandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := make(chan Sandbox, backlog)
	if h.closed {
		close(w)
		return w
	}
	h.watchers[w] = struct{}{}
	return w
}

func (h *hub) unsubscribe(w chan Sandbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.watchers[w]; ok {
		h.drop(w)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watchers {
		h.drop(w)
	}
}

func (h *hub) drop(w chan Sandbox) {
	delete(h.watchers, w)
	close(w)
}

// Watch returns all sandboxes as they are and a channel of the changes that follow.
// The channel is closed when the watcher falls too far behind or the agent ends; stop must be called.
func (a *Agent) Watch() (all []Sandbox, changes <-chan Sandbox, stop func()) {
	w := a.changes.subscribe() // first subscribe, then list: a change in between comes twice, never not at all
	return a.Sandboxes(), w, func() { a.changes.unsubscribe(w) }
}

// EndWatches ends every watch, and each that begins later at once: the agent is about to end.
func (a *Agent) EndWatches() { a.changes.close() }
