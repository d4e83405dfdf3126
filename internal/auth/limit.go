package auth

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Rate is how often something may happen: Burst times at once, and from then on PerSecond times a second.
type Rate struct {
	PerSecond float64
	Burst     int
}

// interval is the time between two that are just allowed.
func (r Rate) interval() time.Duration {
	return max(time.Duration(float64(time.Second)/r.PerSecond), time.Microsecond)
}

// Window is how long a burst that is used up takes to be whole again.
func (r Rate) Window() time.Duration { return time.Duration(r.Burst) * r.interval() }

// Decision is what a limiter says of one request.
type Decision struct {
	Allowed   bool
	Remaining int           // requests that may come at once now
	Reset     time.Duration // until the whole burst may come
	Retry     time.Duration // until one more may come; 0 for now
}

// Limiter bounds how often each key may ask, by class of requests. It counts in Redis, for all replicas together; while Redis does not answer each replica counts for
// itself. All methods may be called at the same time. A nil Limiter allows everything.
type Limiter struct {
	cache *Cache
	rates map[string]Rate

	mu    sync.Mutex           // guards local
	local map[string]time.Time // by key and class: the theoretical arrival time of GCRA
}

// localMost is how many keys and classes a replica counts for itself before it forgets those whose burst is whole.
const localMost = 100_000

// NewLimiter returns a limiter of the classes in rates; others have no limit. cache may be nil.
func NewLimiter(cache *Cache, rates map[string]Rate) *Limiter {
	return &Limiter{cache: cache, rates: rates, local: map[string]time.Time{}}
}

// Rate is the limit of a class.
func (l *Limiter) Rate(class string) (Rate, bool) {
	if l == nil {
		return Rate{}, false
	}
	r, ok := l.rates[class]
	return r, ok
}

// Allow counts a request of a class, which has a rate, and tells whether it may go on.
func (l *Limiter) Allow(ctx context.Context, key id.Key, class string) Decision {
	rate, name := l.rates[class], string(key)+":"+class
	if ahead, wait, ok := l.cache.count(ctx, name, rate); ok {
		return decide(rate, ahead, wait)
	}
	ahead, wait := l.count(name, rate, time.Now())
	return decide(rate, ahead, wait)
}

// decide makes a decision of how far the theoretical arrival time is ahead, and of how long a request that is refused must wait.
func decide(rate Rate, ahead, wait time.Duration) Decision {
	left := int((rate.Window() - ahead) / rate.interval())
	return Decision{Allowed: wait == 0, Remaining: max(left, 0), Reset: ahead, Retry: wait}
}

// count is the generic cell rate algorithm (ITU-T I.371): each request puts the theoretical arrival time off by one interval; one that would put it off by more than a
// burst is refused.
func (l *Limiter) count(name string, rate Rate, now time.Time) (ahead, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.local) >= localMost {
		for n, at := range l.local {
			if at.Before(now) {
				delete(l.local, n)
			}
		}
	}
	at := l.local[name]
	if at.Before(now) {
		at = now
	}
	next := at.Add(rate.interval())
	if wait = next.Add(-rate.Window()).Sub(now); wait > 0 {
		return at.Sub(now), wait
	}
	l.local[name] = next
	return next.Sub(now), 0
}

// limitScript is Limiter.count in Redis, by the clock of Redis, in microseconds.
var limitScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = at + interval - window - now
if wait > 0 then return {at - now, wait} end
redis.call('SET', KEYS[1], string.format('%.0f', at + interval), 'PX', math.ceil((at + interval - now) / 1000))
return {at + interval - now, 0}`)

// count counts in Redis, if that answers.
func (c *Cache) count(ctx context.Context, name string, rate Rate) (ahead, wait time.Duration, ok bool) {
	if c == nil || c.down.Load() {
		return 0, 0, false
	}
	got, err := limitScript.Run(ctx, c.client, []string{"wrenn:rate:" + name}, rate.interval().Microseconds(), rate.Window().Microseconds()).Int64Slice()
	if err != nil || len(got) != 2 {
		c.fail(ctx, err)
		return 0, 0, false
	}
	return time.Duration(got[0]) * time.Microsecond, time.Duration(got[1]) * time.Microsecond, true
}

// WholeSeconds rounds up, as headers have it.
func WholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
