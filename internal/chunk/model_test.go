package chunk

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seeds = flag.Int("seeds", 6, "worlds that TestCollectorEatsNothingAlive tries")
	first = flag.Uint64("first-seed", 1, "the first of them")
)

const (
	testSize   = 64 // bytes in a chunk
	worldHours = 50
)

func plainChunk(n int) []byte { return []byte(fmt.Sprintf("%-64d", n)) }

func testNames(root []byte) (iter.Seq[Name], error) {
	return func(yield func(Name) bool) {
		for line := range strings.Lines(string(root)) {
			if !yield(Name(strings.TrimSpace(line))) {
				return
			}
		}
	}, nil
}

// TestCollectorEatsNothingAlive lets uploads, removals and collections of several hosts go on at the same time, over a store of which calls
// are late and answers get lost, and kills and stops hosts at any step. Every root in the store must be whole at every instant, and in the end nothing
// be left but what the roots name.
func TestCollectorEatsNothingAlive(t *testing.T) {
	warmCodec(t)
	var acked, deleted, again int
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := &simulation{world: newWorld(t, seed)}
			s.run()
			if s.broken != "" {
				t.Fatalf("seed %d: %s", seed, s.broken)
			}
			s.settle(seed)
			acked, deleted, again = acked+s.done, deleted+s.deleted, again+s.overdue
		})
	}
	t.Logf("%d uploads, %d chunks collected, %d uploads overdue", acked, deleted, again)
	if acked == 0 || deleted == 0 || again == 0 {
		t.Error("the worlds were too quiet to show anything")
	}
}

// warmCodec makes the codec outside of bubbles: the channels in it are for all.
func warmCodec(t *testing.T) {
	t.Helper()
	frame, err := compress(nil)
	if err == nil {
		_, err = decompress(frame, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// simulation is a world with its inhabitants.
type simulation struct {
	*world
	all                    sync.WaitGroup
	done, deleted, overdue int // counted under world.mu
	nextID                 int
}

func (s *simulation) run() {
	end := time.Now().Add(worldHours * time.Hour)
	for _, life := range []func(*host, *Pool){s.upload, s.upload, s.upload, s.collect, s.collect, s.remove, s.remove} {
		s.all.Go(func() { s.live(end, life) })
	}
	s.all.Wait()
	time.Sleep(12 * time.Hour) // all that is late has had its effect
}

// live repeats one thing in one process after the other; each is killed some time.
func (s *simulation) live(end time.Time, life func(*host, *Pool)) {
	for time.Now().Before(end) {
		h := &host{world: s.world}
		pool := New(Options{Objects: h, Size: testSize, Names: testNames, Grace: 1})
		killed := time.AfterFunc(time.Duration(s.pick(int(8*time.Hour))), func() { h.dead.Store(true) })
		for !h.dead.Load() && time.Now().Before(end) {
			life(h, pool)
			s.pause()
		}
		killed.Stop()
	}
}

func (s *simulation) upload(h *host, pool *Pool) {
	u, err := pool.Begin(s.t.Context())
	if err != nil {
		return
	}
	names := s.inherit(u)
	for range 1 + s.pick(2) {
		s.pause()
		plain := plainChunk(s.pick(s.varieties))
		name, _, err := u.Put(s.t.Context(), sha256.Sum256(plain), plain)
		if err != nil {
			_ = u.Abort(s.t.Context())
			return
		}
		names = append(names, string(name))
	}
	s.pause()
	s.mu.Lock()
	s.nextID++
	id := fmt.Sprint("r", s.nextID)
	s.mu.Unlock()
	err = u.Commit(s.t.Context(), id, []byte(strings.Join(names, "\n")))
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && !h.dead.Load():
		s.acked[id] = true
		s.done++
		s.check()
	case errors.Is(err, ErrOverdue):
		s.overdue++
	}
}

// inherit takes over what it may of a root that is there.
func (s *simulation) inherit(u *Upload) (names []string) {
	id := s.anyRoot()
	if id == "" {
		return nil
	}
	root, err := u.Root(s.t.Context(), id)
	if err != nil {
		return nil
	}
	all, _ := testNames(root)
	for name := range all {
		if u.Usable(name) && s.chance(70) {
			names = append(names, string(name))
		}
	}
	return names
}

func (s *simulation) anyRoot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.acked))
	if len(ids) == 0 {
		return ""
	}
	return ids[s.rng.IntN(len(ids))]
}

func (s *simulation) remove(_ *host, pool *Pool) {
	id := s.anyRoot()
	if id == "" {
		return
	}
	s.mu.Lock()
	delete(s.acked, id)
	s.gone[id] = true
	s.mu.Unlock()
	_ = pool.Remove(s.t.Context(), id)
}

func (s *simulation) collect(_ *host, pool *Pool) {
	did, _ := pool.Collect(s.t.Context())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted += did.Deleted
}

// settle lets one process go on alone, and holds that it removes all that is not needed.
func (s *simulation) settle(seed uint64) {
	pool := New(Options{Objects: &host{world: s.world}, Size: testSize, Names: testNames, Grace: 1})
	for quiet := 0; quiet < 5; time.Sleep(recordTime) {
		if _, err := pool.Collect(s.t.Context()); err == nil {
			quiet++
		}
	}
	named := map[string]bool{}
	for _, o := range s.objects {
		for _, key := range o.names {
			named[key] = true
		}
	}
	for key := range s.objects {
		if !named[key] && !strings.HasPrefix(key, rootPrefix) && !strings.HasPrefix(key, condemnedPrefix) && key != clockKey {
			s.t.Errorf("seed %d: %s is left over", seed, key)
		}
	}
	if s.broken != "" {
		s.t.Errorf("seed %d: %s", seed, s.broken)
	}
}
