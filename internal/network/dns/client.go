package dns

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Limits of each sandbox. What a page or a package manager asks at once is well below; what a tunnel through names
// would need is above.
const (
	queriesPerSecond, queriesBurst = 100, 500
	bytesPerSecond, bytesBurst     = 64 << 10, 512 << 10 // of queries and answers
	maxUnderWay                    = 64
	maxStreams                     = 8
)

// crowd is how many queries may be under way on the host before each sandbox is held to its fair share of them, so that some
// who ask much leave room for those who ask little.
const crowd, fairShare = 4096, 4

// sweepEvery is how often is looked for sandboxes that are gone.
const sweepEvery = time.Minute

// clients keeps what belongs to each sandbox.
type clients struct {
	holds func(id.Sandbox) bool // whether the host has a sandbox

	mu       sync.Mutex // guards what follows, and the counts of every client
	of       map[id.Sandbox]*client
	underWay int
	swept    time.Time
}

// client is what is kept of a sandbox.
type client struct {
	queries, bytes *rate.Limiter
	cache          *cache
	underWay       int
	streams        int
}

func newClients(holds func(id.Sandbox) bool) *clients {
	return &clients{holds: holds, of: map[id.Sandbox]*client{}}
}

func (c *clients) get(sandbox id.Sandbox, now time.Time) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.of[sandbox]
	if known == nil {
		known = &client{
			queries: rate.NewLimiter(queriesPerSecond, queriesBurst),
			bytes:   rate.NewLimiter(bytesPerSecond, bytesBurst),
			cache:   newCache(),
		}
		c.of[sandbox] = known
	}
	c.sweep(now)
	return known
}

// sweep drops what was kept for sandboxes that are gone; the caller holds the lock.
func (c *clients) sweep(now time.Time) {
	if now.Sub(c.swept) < sweepEvery {
		return
	}
	c.swept = now
	for sandbox := range c.of {
		if !c.holds(sandbox) {
			delete(c.of, sandbox)
		}
	}
}

// admit tells whether a query of n bytes is taken; then done must be called when it is answered.
func (c *clients) admit(of *client, n int, now time.Time) bool {
	if !of.queries.AllowN(now, 1) || !of.bytes.AllowN(now, n) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if of.underWay >= maxUnderWay || c.underWay >= crowd && of.underWay >= fairShare {
		return false
	}
	of.underWay++
	c.underWay++
	return true
}

// done ends a query whose answer has n bytes. They count for the queries that follow.
func (c *clients) done(of *client, n int, now time.Time) {
	of.bytes.ReserveN(now, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	of.underWay--
	c.underWay--
}

// connect tells whether one more stream is taken; then disconnect must be called at its end.
func (c *clients) connect(of *client) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of.streams >= maxStreams {
		return false
	}
	of.streams++
	return true
}

func (c *clients) disconnect(of *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of.streams--
}
