package chunk

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
)

// world is an object store as bad as the contract allows, in the time of a synctest bubble: calls take any time, their answers get lost, and what was
// cut off has its effect later. After each effect it looks whether every root is whole.
type world struct {
	t   *testing.T
	mu  sync.Mutex // guards all of the following
	rng *rand.Rand
	// stalls is how many of a thousand pauses last for up to hours, and varieties how many chunks there are: this is another in each world.
	stalls, varieties int
	still             bool // nothing takes time and nothing gets lost: a test decides who goes on

	objects map[string]stored
	acked   map[string]bool // roots whose Commit returned nil, without those removed
	gone    map[string]bool // roots that somebody has begun to remove
	broken  string          // the first that was found to be wrong
}

type stored struct {
	data     []byte
	modified time.Time
	names    []string // the keys of the chunks that it names, if it is a root
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	return &world{t: t, rng: rng, stalls: []int{2, 10, 30, 80}[rng.IntN(4)], varieties: 1 + rng.IntN(6), objects: map[string]stored{}, acked: map[string]bool{}, gone: map[string]bool{}}
}

// pause lets others go on: mostly for a moment, at times for hours.
func (w *world) pause() {
	if w.still {
		return
	}
	w.mu.Lock()
	d := time.Duration(w.rng.ExpFloat64() * float64(30*time.Second))
	switch n := w.rng.IntN(1000); {
	case n < w.stalls:
		d = time.Duration(w.rng.Int64N(int64(time.Hour) << w.rng.IntN(3)))
	case n < 2*w.stalls:
		d = time.Duration(w.rng.Int64N(int64(5 * time.Minute)))
	}
	w.mu.Unlock()
	time.Sleep(d)
}

func (w *world) chance(percent int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(100) < percent
}

func (w *world) pick(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

var errLost = models.Errorf(models.Unavailable, "the answer got lost")

// answer is what a call comes back with, if it does.
type answer[T any] struct {
	value T
	err   error
}

// do has an effect after a while, but not later than object.Lag behind the deadline.
func do[T any](ctx context.Context, w *world, effect func() (T, error)) (T, error) {
	deadline, limited := ctx.Deadline()
	done := make(chan answer[T], 1)
	go func() {
		w.pause()
		if limited && time.Now().After(deadline.Add(object.Lag)) {
			done <- answer[T]{err: context.DeadlineExceeded}
			return
		}
		w.mu.Lock()
		value, err := effect()
		w.check()
		w.mu.Unlock()
		w.pause()
		if !w.still && w.chance(1) {
			err = errLost
		}
		done <- answer[T]{value, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// check holds that each root is whole.
func (w *world) check() {
	for key, root := range w.objects {
		id, isRoot := strings.CutPrefix(key, rootPrefix)
		if !isRoot || w.gone[id] || w.broken != "" {
			continue
		}
		for _, name := range root.names {
			if _, there := w.objects[name]; !there {
				w.broken = fmt.Sprintf("root %s names %s, which is not there", id, name)
			}
		}
	}
	for id := range w.acked {
		if _, there := w.objects[rootPrefix+id]; !there && w.broken == "" {
			w.broken = "root " + id + " is lost"
		}
	}
}

// namesIn are the keys of the chunks that an object names.
func (w *world) namesIn(key string, data []byte) (keys []string) {
	if !strings.HasPrefix(key, rootPrefix) {
		return nil
	}
	text, err := decompress(data, maxRoot)
	if err != nil {
		w.broken = err.Error()
	}
	names, _ := testNames(text)
	for name := range names {
		keys = append(keys, name.key())
	}
	return keys
}

// host is one process's way to the world, until it is killed.
type host struct {
	*world
	dead atomic.Bool
	turn chan struct{} // of each call, where a test decides; else nil
}

var errDead = errors.New("this process was killed")

func call[T any](ctx context.Context, h *host, effect func() (T, error)) (value T, err error) {
	if h.turn != nil {
		<-h.turn
	}
	if h.dead.Load() {
		return value, errDead
	}
	value, err = do(ctx, h.world, effect)
	if h.dead.Load() {
		return value, errDead
	}
	return value, err
}

func (h *host) Put(ctx context.Context, key string, data []byte) error {
	_, err := call(ctx, h, func() (any, error) {
		h.objects[key] = stored{data, time.Now(), h.namesIn(key, data)}
		return nil, nil
	})
	return err
}

func (h *host) Delete(ctx context.Context, key string) error {
	_, err := call(ctx, h, func() (any, error) {
		delete(h.objects, key)
		return nil, nil
	})
	return err
}

func (h *host) Get(ctx context.Context, key string, _ int64) ([]byte, error) {
	return call(ctx, h, func() ([]byte, error) {
		o, there := h.objects[key]
		return o.data, h.missing(key, there)
	})
}

func (h *host) Stat(ctx context.Context, key string) (object.Info, error) {
	return call(ctx, h, func() (object.Info, error) {
		o, there := h.objects[key]
		return object.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified}, h.missing(key, there)
	})
}

func (h *host) missing(key string, there bool) error {
	if there {
		return nil
	}
	return object.Missing(key, nil)
}

// List asks for pages of three, so that things change between them.
func (h *host) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		for last := prefix; ; {
			after := last
			page, err := call(ctx, h, func() ([]object.Info, error) { return h.page(prefix, after), nil })
			if err != nil {
				yield(object.Info{}, err)
				return
			}
			for _, info := range page {
				if last = info.Key; !yield(info, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

func (w *world) page(prefix, after string) (page []object.Info) {
	for _, key := range slices.Sorted(maps.Keys(w.objects)) {
		if strings.HasPrefix(key, prefix) && key > after && len(page) < 3 {
			o := w.objects[key]
			page = append(page, object.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified})
		}
	}
	return page
}
