package filesystem

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"time"
)

// Limits of the watchers that are asked for their events.
const (
	maxWatchers = 64
	// maxQueued and maxQueuedText bound the events that wait for one client.
	maxQueued     = 10_000
	maxQueuedText = 4 << 20
	// abandoned is how long nobody asks before a watcher may make room for another.
	abandoned = 10 * time.Minute
)

// watchers are those that clients have made and not removed.
type watchers struct {
	mu     sync.Mutex
	byID   map[string]*watcher
	closed bool
}

// watcher keeps the events of a watch until they are asked for.
type watcher struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	events []Event
	text   int
	failed error
	asked  time.Time
}

// CreateWatcher begins to keep what happens in the directory at path, and returns the name
// under which to ask for it. The error is an *Error.
func (s *Service) CreateWatcher(path string, opts WatchOptions) (string, error) {
	watch, err := s.Watch(path, opts)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{cancel: cancel, done: make(chan struct{}), asked: time.Now()}
	id := "w" + strings.ToLower(rand.Text())
	if err := s.watchers.put(id, w); err != nil {
		cancel()
		_ = watch.Close()
		return "", err
	}
	go w.keep(ctx, watch)
	return id, nil
}

// WatcherEvents returns what has happened since it was last asked. The error is an *Error.
func (s *Service) WatcherEvents(id string) ([]Event, error) {
	w, err := s.watchers.find(id)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = time.Now()
	if len(w.events) == 0 && w.failed != nil {
		return nil, w.failed
	}
	events := w.events
	w.events, w.text = nil, 0
	return events, nil
}

// RemoveWatcher ends a watcher. The error is an *Error.
func (s *Service) RemoveWatcher(id string) error {
	w, err := s.watchers.take(id)
	if err != nil {
		return err
	}
	w.close()
	return nil
}

// keep collects events until the watch or ctx ends.
func (w *watcher) keep(ctx context.Context, watch *Watch) {
	defer close(w.done)
	defer func() { _ = watch.Close() }()
	for {
		event, err := watch.Next(ctx, time.Hour)
		if errors.Is(err, ErrQuiet) {
			continue
		}
		if err == nil {
			err = w.add(event)
		}
		if err != nil {
			w.fail(err)
			return
		}
	}
}

func (w *watcher) add(event Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text += len(event.Name)
	if event.Entry != nil {
		w.text += event.Entry.size()
	}
	if len(w.events) >= maxQueued || w.text > maxQueuedText {
		return errorf(Exhausted, "events were lost: more than %d, or with names of more than %d MiB, waited to be asked for", maxQueued, maxQueuedText>>20)
	}
	w.events = append(w.events, event)
	return nil
}

func (w *watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
}

func (w *watcher) close() {
	w.cancel()
	<-w.done
}

func (w *watcher) abandoned() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.asked) > abandoned
}

// put adds a watcher. If they are too many, one that nobody asks any more makes room.
func (m *watchers) put(id string, w *watcher) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errorf(Precondition, "the sandbox is shutting down")
	}
	if len(m.byID) >= maxWatchers && !m.makeRoom() {
		return errorf(Exhausted, "more than %d watchers: remove one first", maxWatchers)
	}
	m.byID[id] = w
	return nil
}

func (m *watchers) makeRoom() bool {
	for id, w := range m.byID {
		if w.abandoned() {
			delete(m.byID, id)
			w.close()
			return true
		}
	}
	return false
}

func (m *watchers) find(id string) (*watcher, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, ok := m.byID[id]
	if !ok {
		return nil, errorf(NotFound, "watcher with id %s not found", id)
	}
	return w, nil
}

func (m *watchers) take(id string) (*watcher, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, ok := m.byID[id]
	if !ok {
		return nil, errorf(NotFound, "watcher with id %s not found", id)
	}
	delete(m.byID, id)
	return w, nil
}

// close ends all of them, and every put from now on fails.
func (m *watchers) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for id, w := range m.byID {
		delete(m.byID, id)
		w.close()
	}
}
