package controller

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// limit gives the rig's account a pool.
func (r *rig) limit(c db.PoolChange) {
	r.t.Helper()
	if err := r.store.SetPool(r.t.Context(), r.by.Account, db.By{Actor: "operator"}, c); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) inPool() models.Room {
	r.t.Helper()
	p, err := r.store.Pool(r.t.Context(), r.by.Account)
	if err != nil {
		r.t.Fatal(err)
	}
	return p.Used
}

// uses fails unless the account has that of its pool.
func (r *rig) uses(when string, want models.Room) {
	r.t.Helper()
	if got := r.inPool(); got != want {
		r.t.Errorf("%s: %+v of the pool used, want %+v", when, got, want)
	}
}

// TestPoolCounts: what each state of a sandbox and a snapshot takes of the pool.
func TestPoolCounts(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	asleep := models.Room{DiskMiB: int64(sb.Size.DiskMiB)}
	r.uses("running", sb.Size.Whole(1))
	step := func(what string, op func(context.Context, By, id.Sandbox) (models.Sandbox, error), want models.Room) {
		t.Helper()
		if _, err := op(t.Context(), r.request(), sb.ID); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		r.uses(what, want)
	}
	step("paused", c.Pause, asleep)
	step("resumed", c.Resume, sb.Size.Whole(1))
	step("hibernated", c.Hibernate, asleep)
	step("resumed cold", c.Resume, sb.Size.Whole(1))
	disk, none := int64(sb.Size.DiskMiB), models.Unlimited
	r.limit(db.PoolChange{DiskMiB: &disk})
	if _, err := c.CreateSnapshot(t.Context(), r.request(), sb.ID, "too much"); models.CodeOf(err) != models.Exhausted {
		t.Errorf("a snapshot without room: %v", err)
	}
	r.uses("without room for a snapshot", sb.Size.Whole(1))
	r.limit(db.PoolChange{DiskMiB: &none})
	kept, err := c.CreateSnapshot(t.Context(), r.request(), sb.ID, "kept")
	if err != nil {
		t.Fatal(err)
	}
	with := sb.Size.Whole(1)
	with.DiskMiB += kept.Size.Stored().DiskMiB
	r.uses("with a snapshot", with)
	if err := c.DeleteSnapshot(t.Context(), r.request(), kept.ID); err != nil {
		t.Fatal(err)
	}
	r.uses("without it", sb.Size.Whole(1))
	r.sim.Put(string(sb.ID), pb.SandboxState_SANDBOX_STATE_FAILED, "its VM is gone")
	r.becomes(sb.ID, models.Failed)
	r.uses("failed", models.Room{})
	step("destroyed", c.Destroy, models.Room{})
}

// TestPoolHoldsWhatIsBeingDestroyed: its processors are in use until its host says that they are not, and one that slept takes no more for its end.
func TestPoolHoldsWhatIsBeingDestroyed(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sleeper, sb := r.asleep(c), r.create(c)
	want := sb.Size.Whole(1)
	want.DiskMiB += int64(sleeper.Size.DiskMiB)
	let := make(chan struct{})
	r.sim.OnDestroy(func(context.Context, string) error { <-let; return nil })
	var wg sync.WaitGroup
	for _, one := range []models.Sandbox{sleeper, sb} {
		wg.Go(func() {
			if _, err := c.Destroy(t.Context(), r.request(), one.ID); err != nil {
				t.Error(err)
			}
		})
		r.becomes(one.ID, models.Stopping)
	}
	r.uses("on their way", want)
	close(let)
	wg.Wait()
	r.uses("gone", models.Room{})
}

// neverOversold has the database refuse to commit anything that leaves more of a pool used than there is.
const neverOversold = `
CREATE FUNCTION refuse_oversold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM accounts WHERE id = NEW.id AND (used_vcpus > pool_vcpus OR used_memory_mib > pool_memory_mib OR used_disk_mib > pool_disk_mib
        OR used_sandboxes > pool_sandboxes OR least(used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes) < 0);
    IF FOUND THEN
        RAISE EXCEPTION 'oversold';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_oversold AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_oversold()`

// recounted is what the sandboxes and snapshots that there are take of a pool, without the counters.
const recounted = `
SELECT coalesce(sum(disk_mib), 0)::bigint || ' ' || coalesce(sum(vcpus) FILTER (WHERE state <> 'paused'), 0) || ' ' || count(*) FILTER (WHERE state <> 'paused')
FROM (SELECT disk_mib, vcpus, state::text FROM sandboxes WHERE state NOT IN ('error', 'stopped')
    UNION ALL SELECT disk_mib + memory_mib, 0, 'paused' FROM snapshots WHERE state <> 'error') AS all_of_it`

// TestPoolIsNeverOversold: whatever is asked for at once, of whichever replica, no transaction leaves more used than there is, and at the end the counters are
// what a recount says.
func TestPoolIsNeverOversold(t *testing.T) {
	r := newRig(t)
	replicas := []*replica{r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, Pace{})}
	sb := r.create(replicas[0])
	kept, err := replicas[0].CreateSnapshot(t.Context(), r.request(), sb.ID, "kept")
	if err != nil {
		t.Fatal(err)
	}
	four, disk := int64(4), int64(8*sb.Size.DiskMiB)+kept.Size.Stored().DiskMiB
	r.limit(db.PoolChange{Sandboxes: &four, VCPUs: &four, DiskMiB: &disk})
	r.sql(neverOversold)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() { r.churnPool(replicas[w%2], kept.ID, rand.New(rand.NewPCG(uint64(w), 1))) }) //nolint:gosec // a test's choices
	}
	wg.Wait()
	var recount string
	r.query(&recount, recounted)
	var counted string
	r.query(&counted, "SELECT used_disk_mib || ' ' || used_vcpus || ' ' || used_sandboxes FROM accounts WHERE id = '"+string(r.by.Account)+"'")
	if recount != counted {
		t.Errorf("the counters say %s, a recount %s", counted, recount)
	}
}

// churnPool makes, puts to sleep, wakes, forks and destroys whatever there is.
func (r *rig) churnPool(c *replica, kept id.Snapshot, choose *rand.Rand) {
	for range 25 {
		all, err := r.store.List(r.t.Context(), db.Filter{Account: r.by.Account, Limit: 50, States: []models.State{models.Running, models.Paused}})
		if err != nil {
			r.t.Error(err)
			return
		}
		op := choose.IntN(7)
		if len(all) == 0 {
			op = 0
		}
		var sb id.Sandbox
		if op > 1 {
			sb = all[choose.IntN(len(all))].ID
		}
		ctx, by := r.t.Context(), r.request()
		switch op {
		case 0:
			_, err = c.Create(ctx, by, Request{Template: "minimal"})
		case 1:
			_, err = c.Create(ctx, by, Request{Snapshot: kept})
		case 2:
			_, err = c.Fork(ctx, by, sb, ForkRequest{Count: 2})
		case 3, 4:
			_, err = c.Pause(ctx, by, sb)
		case 5:
			_, err = c.Resume(ctx, by, sb)
		case 6:
			_, err = c.Destroy(ctx, by, sb)
		}
		if code := models.CodeOf(err); err != nil && (code == models.Internal || strings.Contains(err.Error(), "oversold")) {
			r.t.Errorf("operation %d: %v", op, err)
		}
	}
}

// TestWaitForRoom: whoever waits is served when another replica gives room back or an operator gives more, also after the database's connections were cut, and is told
// what was short when his time, or he himself, is gone.
func TestWaitForRoom(t *testing.T) {
	r := newRig(t)
	c, other := r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, Pace{})
	first := r.create(c)
	one, two := int64(1), int64(2)
	r.limit(db.PoolChange{Sandboxes: &one})
	full := func(err error) bool {
		return errors.Is(err, models.ErrPoolFull) && models.CodeOf(err) == models.Exhausted
	}
	for name, wait := range map[string]time.Duration{"at once": 0, "after a while": 10 * time.Millisecond} {
		if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal", Wait: wait}); !full(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Fork(t.Context(), r.request(), first.ID, ForkRequest{Count: 2, Wait: time.Hour}); models.CodeOf(err) != models.Exhausted || full(err) {
		t.Errorf("more than the pool is: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := other.Create(gone, r.request(), Request{Template: "minimal", Wait: time.Hour})
		left <- err
	}()
	r.waits(other)
	leave()
	if err := <-left; err == nil {
		t.Error("who has left is served")
	}
	served := func(give func()) models.Sandbox {
		t.Helper()
		made := make(chan models.Sandbox)
		go func() {
			sb, err := other.Create(t.Context(), r.request(), Request{Template: "minimal", Wait: time.Hour})
			if err != nil {
				t.Error(err)
			}
			made <- sb
		}()
		r.waits(other)
		give()
		return <-made
	}
	second := served(func() {
		if _, err := c.Pause(t.Context(), r.request(), first.ID); err != nil {
			t.Error(err)
		}
	})
	served(func() {
		r.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'")
		r.limit(db.PoolChange{Sandboxes: &two})
	})
	resumed := make(chan error)
	go func() {
		_, err := other.ResumeWithin(t.Context(), r.request(), first.ID, time.Hour)
		resumed <- err
	}()
	r.waits(other)
	if _, err := c.Destroy(t.Context(), r.request(), second.ID); err != nil {
		t.Error(err)
	}
	if err := <-resumed; err != nil {
		t.Error(err)
	}
}

// waits returns once somebody waits for room at c and the database knows of that.
func (r *rig) waits(c *replica) {
	r.t.Helper()
	r.eventually("somebody waits for room", func() bool {
		c.rooms.mu.Lock()
		defer c.rooms.mu.Unlock()
		var told bool
		r.query(&told, "SELECT coalesce(awaited_until > clock_timestamp(), false) FROM accounts WHERE id = '"+string(r.by.Account)+"'")
		return told && len(c.rooms.waiting[r.by.Account]) == 1
	})
}

// TestRetire: who waits for room at a control plane that is about to end is told so at once, and those who come later too; what is under way goes on.
func TestRetire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, other := r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, Pace{})
	one := int64(1)
	r.limit(db.PoolChange{Sandboxes: &one})
	first := r.create(c)
	waited := make(chan error)
	wait := func() error {
		_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal", Wait: time.Hour})
		return err
	}
	go func() { waited <- wait() }()
	r.waits(c)
	c.Retire()
	for what, err := range map[string]error{"who waits": <-waited, "who comes": wait()} {
		if models.CodeOf(err) != models.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.Pause(t.Context(), r.request(), first.ID); err != nil {
		t.Errorf("what needs no room: %v", err)
	}
	if _, err := other.Create(t.Context(), r.request(), Request{Template: "minimal", Wait: time.Hour}); err != nil {
		t.Errorf("at another control plane: %v", err)
	}
}
