package dns

import (
	"container/list"
	"sync"
)

// Bounds of what is kept for each sandbox.
const (
	maxCached      = 128
	maxCachedBytes = 128 << 10 // of records
)

type cacheKey struct {
	name  string // lower case, without the last dot
	qtype uint16
}

// cache keeps the answers that a sandbox used last. It is the sandbox's own, so that none can tell from the time an answer
// takes what another one asks, nor push out what another one needs.
type cache struct {
	mu    sync.Mutex // guards what follows
	of    map[cacheKey]*list.Element
	order *list.List // of entries, the one used last in front
	bytes int
}

type cacheEntry struct {
	key cacheKey
	found
}

func newCache() *cache { return &cache{of: map[cacheKey]*list.Element{}, order: list.New()} }

func (c *cache) get(key cacheKey) (found, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.of[key]
	if !ok {
		return found{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cacheEntry).found, true
}

func (c *cache) put(key cacheKey, f found) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.of[key]; ok {
		c.drop(old)
	}
	c.of[key] = c.order.PushFront(cacheEntry{key, f})
	c.bytes += len(key.name) + f.size
	for c.order.Len() > maxCached || c.bytes > maxCachedBytes {
		c.drop(c.order.Back())
	}
}

// drop removes an entry; the caller holds the lock.
func (c *cache) drop(e *list.Element) {
	entry := c.order.Remove(e).(cacheEntry)
	delete(c.of, entry.key)
	c.bytes -= len(entry.key.name) + entry.size
}
