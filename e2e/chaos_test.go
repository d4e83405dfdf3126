package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifetest/invariant"
)

// chaosEnv says how long TestChaos goes on, and chaosSeedEnv by which random numbers; `make chaos` sets both. Without the first there is one short round, without the second a seed
// is taken and printed.
const chaosEnv, chaosSeedEnv = "WRENN_CHAOS", "WRENN_CHAOS_SEED"

const (
	shortRound, longRound = 15 * time.Second, 60 * time.Second
	usersOfChaos          = 3
	// mostAwake is how many sandboxes the account may have running, and mostOfHost for how many a host has memory.
	mostAwake, mostOfHost = 6, 3
	// memoryOfChaos is what a sandbox has, and with its VMM takes of a host.
	memoryOfChaos, takenOfHost = 256, 384
)

// TestChaos: users do at random what there is to do with real sandboxes on three hosts, while replicas, agents, VMMs, databases and the object store are killed, stopped and cut off at
// random. After each round all is left alone: it comes to rest, agrees with what was answered and with what the hosts have, and each sandbox holds what was written. In the end nothing
// is left. The threads race, so that a seed may have to be tried again.
func TestChaos(t *testing.T) {
	length, seed := chaosSettings(t)
	t.Logf("seed %d", seed)
	x := newChaos(t, seed)
	if length > 0 {
		x.roundTime = longRound
	}
	for begun := time.Now(); x.number == 0 || time.Since(begun) < length && !t.Failed(); {
		x.number++
		x.round()
		t.Logf("%d rounds in %v, at rest after %v at most: %s", x.number, time.Since(begun).Round(time.Second), x.longest.Round(time.Second), x.counts())
	}
	if !t.Failed() {
		x.clear()
	}
}

func chaosSettings(t *testing.T) (length time.Duration, seed uint64) {
	t.Helper()
	seed = uint64(time.Now().UnixNano())
	var err error
	if text := os.Getenv(chaosEnv); text != "" {
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", chaosEnv, err)
		}
	}
	if text := os.Getenv(chaosSeedEnv); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", chaosSeedEnv, err)
		}
	}
	return length, seed
}

// chaos is a cluster that is not left alone.
type chaos struct {
	*cluster
	seed      uint64
	number    int // of the round
	roundTime time.Duration
	account   id.Account
	tables    invariant.Tables
	hosts     []*hostParts
	journal   *journal
	users     []*user
	longest   time.Duration // that it took until all was at rest

	faults  sync.WaitGroup // those that end by themselves
	drained atomic.Bool    // a host was, in this round
	evicted atomic.Bool    // what ran there was put to sleep

	mu     sync.Mutex           // guards what follows
	killed map[string]bool      // sandboxes whose VMM was, in this round
	ids    map[string]bool      // of all that were ever made
	busy   map[string]time.Time // what something has befallen, and until when it is left alone
	done   map[string]int       // how often what was done, and how often it came to its end
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	overcommit := float64(mostOfHost*takenOfHost) / float64(memoryMiB(t))
	c := startCluster(t, fmt.Sprintf("WRENN_MEMORY_OVERCOMMIT=%g", overcommit), "WRENN_RATE_LIMITS=off")
	x := &chaos{
		cluster: c, seed: seed, roundTime: shortRound, journal: newJournal(), hosts: hostsOf(t, c),
		killed: map[string]bool{}, ids: map[string]bool{}, busy: map[string]time.Time{}, done: map[string]int{},
	}
	x.openTables(overcommit)
	t.Cleanup(x.explain)
	if text, err := c.Tool(x.context(), "account", "pool", "dev", "--sandboxes", strconv.Itoa(mostAwake)); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for i := range usersOfChaos {
		x.users = append(x.users, &user{x: x, number: i})
	}
	return x
}

// memoryMiB is what this machine, and so each host, has.
func memoryMiB(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		t.Fatalf("read /proc/meminfo: %v", err)
	}
	return kib >> 10
}

func (x *chaos) openTables(overcommit float64) {
	x.t.Helper()
	store, err := db.Open(x.t.Context(), x.DatabaseURL())
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(store.Close)
	pool, err := pgxpool.New(x.t.Context(), x.DatabaseURL())
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(pool.Close)
	x.tables = invariant.Tables{Pool: pool, Store: store}
	if err := x.tables.NotePlacements(x.t.Context(), overcommit); err != nil {
		x.t.Fatal(err)
	}
	if x.account, err = store.AccountNamed(x.t.Context(), "dev"); err != nil {
		x.t.Fatal(err)
	}
}

// round is a time of chaos, and the look at what has become of all.
func (x *chaos) round() {
	x.t.Helper()
	x.journal.note("round %d begins", x.number)
	x.drained.Store(false)
	x.evicted.Store(false)
	x.mu.Lock()
	clear(x.killed)
	x.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), x.roundTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, u := range x.users {
		u.random = x.randomOf(u.number)
		wg.Go(func() { u.work(ctx) })
	}
	wg.Go(func() { x.trouble(ctx, x.randomOf(usersOfChaos)) })
	wg.Wait()
	x.faults.Wait()
	x.heal()
	x.journal.note("round %d: all faults have ended", x.number)
	x.fail(x.settle())
	x.fail(x.disagrees())
	x.fail(x.tables.Oversold(x.context()))
	x.fail(x.tables.Paths(x.context(), x.account))
	x.lookAtAll()
	x.fail(x.settle())
}

// randomOf are the random numbers of somebody in this round.
func (x *chaos) randomOf(who int) *rand.Rand {
	return rand.New(rand.NewPCG(x.seed, uint64(x.number*(usersOfChaos+1)+who)))
}

// fail fails the test with what is wrong.
func (x *chaos) fail(wrong []string) {
	x.t.Helper()
	for _, what := range wrong {
		x.journal.note("WRONG: %s", what)
		x.t.Errorf("round %d of seed %d: %s", x.number, x.seed, what)
	}
}

// count keeps what was done for the log.
func (x *chaos) count(what string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done[what]++
}

func (x *chaos) counts() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(x.done), "map["), "]")
}

// clear destroys all there is, of which nothing is left then, and looks at what was used.
func (x *chaos) clear() {
	x.t.Helper()
	for _, u := range x.users {
		for _, b := range u.boxes {
			x.destroyBox(b)
		}
		u.boxes = nil
		for _, s := range u.kept {
			x.deleteSnapshot(s.id)
		}
		u.kept = nil
	}
	x.fail(x.settle())
	for i, h := range x.hosts {
		if left := h.all(); len(left) > 0 {
			x.fail([]string{fmt.Sprintf("host %d has, when all is destroyed: %s", i, strings.Join(left, ", "))})
		}
	}
	x.fail(x.tables.Usage(x.context(), x.account))
	x.fail(x.tables.Paths(x.context(), x.account))
}
