package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// newLazyRig is a host whose driver restores VMs before their memory is there.
func newLazyRig(t *testing.T) *rig {
	r := newRig(t)
	r.driver.lazy, r.driver.memory = true, "its memory"
	return r
}

// fetched returns a sandbox that sleeps here in what was stored of it, without its memory.
func (r *rig) fetched() (id.Sandbox, string) {
	r.t.Helper()
	sb, key := r.hibernated("kept")
	if now, err := r.fetch(sb, key); err != nil || now.State != Paused || now.Archive == nil || now.Archive.Key != key {
		r.t.Fatalf("fetch: %+v, %v", now, err)
	}
	r.comesFrom(sb, key)
	return sb, key
}

// wokenEarly returns a sandbox that runs and has not all of its memory.
func (r *rig) wokenEarly() (id.Sandbox, string, *machine) {
	r.t.Helper()
	sb, key := r.fetched()
	r.resume(sb)
	r.marked(sb, "kept")
	r.mark(sb, "forgotten")
	return sb, key, r.vmOf(sb)
}

// vmOf is the VM of a sandbox.
func (r *rig) vmOf(sb id.Sandbox) *machine {
	r.t.Helper()
	running, _ := r.agent.mustFind(sb).machine()
	m, ok := running.(*machine)
	if !ok {
		r.t.Fatal("it has no VM")
	}
	return m
}

// sleepsIn opens the snapshot that a sandbox sleeps in, or was woken from.
func (r *rig) sleepsIn(sb id.Sandbox) snapshot.Snapshot {
	r.t.Helper()
	name := r.agent.mustFind(sb).update(func(*record) {}).Snapshot
	s, err := snapshot.At(filepath.Join(r.agent.dir(sb), "snapshots"), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// comesFrom fails the test unless the memory of a sandbox is to come from there; "" for that it is here.
func (r *rig) comesFrom(sb id.Sandbox, key string) {
	r.t.Helper()
	if later, err := r.sleepsIn(sb).Later(); err != nil || later != key {
		r.t.Errorf("its memory is to come from %q, want %q, %v", later, key, err)
	}
}

// come has all memory of a VM come, as its pager would.
func (r *rig) come(m *machine, memory string) {
	r.t.Helper()
	f, err := os.OpenFile(m.from.Memory, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(memory)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
	close(m.whole)
}

// hasCome waits until it is known that a sandbox has its memory.
func (r *rig) hasCome(sb id.Sandbox) {
	r.t.Helper()
	r.eventually("its memory lasts", func() bool {
		later, err := r.sleepsIn(sb).Later()
		return err == nil && later == ""
	})
}

// sleepsAgain waits until a sandbox sleeps in what is stored, and has it woken, with its memory.
func (r *rig) sleepsAgain(sb id.Sandbox, key, why string) {
	r.t.Helper()
	r.eventually("it sleeps again", func() bool {
		now, err := r.agent.Sandbox(sb)
		return err == nil && now.State == Paused
	})
	now := r.is(sb, Paused)
	if !strings.Contains(now.Reason, why) || now.Archive == nil || now.Archive.Key != key {
		r.t.Errorf("it is %+v, and should be stored as %s, and say %q", now, key, why)
	}
	r.comesFrom(sb, key)
	if s := r.agent.mustFind(sb); s.token() != r.sleepsIn(sb).Token {
		r.t.Error("its guest does not know the token that it will be asked with")
	}
	r.resume(sb)
	r.marked(sb, "kept")
	r.come(r.vmOf(sb), "its memory")
	r.hasCome(sb)
}

// killed has the agent die with a record of a sandbox, and another one begin after what happens meanwhile.
func (r *rig) killed(sb id.Sandbox, with func(*record), meanwhile func()) {
	r.t.Helper()
	rec, dir := r.agent.mustFind(sb).update(func(*record) {}), r.agent.dir(sb)
	r.close()
	with(&rec)
	if err := rec.write(dir); err != nil {
		r.t.Fatal(err)
	}
	meanwhile()
	r.open()
}

// TestWokenBeforeItsMemory: it runs, and is not frozen before all is there; then it is like any other, and what its guest came to first goes with it.
func TestWokenBeforeItsMemory(t *testing.T) {
	r := newLazyRig(t)
	sb, key, m := r.wokenEarly()
	var source string
	if err := json.Unmarshal(m.from.Lazy.Source, &source); err != nil || source != key || len(m.from.Lazy.First) != 0 {
		t.Errorf("it was woken from %+v", m.from.Lazy)
	}
	if err := pager.WriteWorkingSet(m.from.Lazy.Record, []int64{1, 0}); err != nil {
		t.Fatal(err)
	}
	paused := make(chan error, 1)
	go func() {
		_, err := r.agent.Pause(t.Context(), sb)
		paused <- err
	}()
	r.eventually("it is being paused", m.freezing.Load)
	r.comesFrom(sb, key)
	r.come(m, "its memory")
	if err := <-paused; err != nil {
		t.Fatal(err)
	}
	r.comesFrom(sb, "")
	r.resume(sb) // from its disk, when nothing is recorded
	r.marked(sb, "forgotten")
	r.pause(sb)
	again := r.store(sb)
	if again.Key == key {
		t.Error("it was not stored anew")
	}
	if err := r.agent.Release(t.Context(), sb, again.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := r.fetch(sb, again.Key); err != nil {
		t.Fatal(err)
	}
	r.resume(sb)
	m = r.vmOf(sb)
	if !slices.Equal(m.from.Lazy.First, []int64{1, 0}) {
		t.Errorf("its working set is %v", m.from.Lazy.First)
	}
	r.come(m, "its memory")
	r.hasCome(sb)
	r.pause(sb) // when nothing was recorded
	if set, err := pager.ReadWorkingSet(r.sleepsIn(sb).WorkingSet()); err != nil || !slices.Equal(set, []int64{1, 0}) {
		t.Errorf("the working set that it is stored with is %v, %v", set, err)
	}
}

// TestMemoryThatDoesNotCome ends the VM, whoever waits for it, or nobody, and the sandbox sleeps as it was stored.
func TestMemoryThatDoesNotCome(t *testing.T) {
	const why = "could not be brought"
	lost := vm.Exit{MemoryLost: true, Reason: "its memory " + why}
	for name, lose := range map[string]func(*rig, id.Sandbox, *machine){
		"while it runs": func(_ *rig, _ id.Sandbox, m *machine) { m.end(lost) },
		"while it is being paused": func(r *rig, sb id.Sandbox, m *machine) {
			paused := make(chan error, 1)
			go func() {
				_, err := r.agent.Pause(r.t.Context(), sb)
				paused <- err
			}()
			r.eventually("it is being paused", m.freezing.Load)
			m.end(lost)
			if err := <-paused; models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), why) {
				r.t.Errorf("pause: %v", err)
			}
		},
		"while it is being forked": func(r *rig, sb id.Sandbox, m *machine) {
			forked := make(chan error, 1)
			go func() {
				_, err := r.agent.Fork(r.t.Context(), sb, []Child{{ID: id.NewSandbox(), Network: models.DefaultNetwork()}})
				forked <- err
			}()
			r.eventually("it is being forked", m.freezing.Load)
			m.end(lost)
			if err := <-forked; models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), why) {
				r.t.Errorf("fork: %v", err)
			}
		},
		"while there is no agent": func(r *rig, _ id.Sandbox, m *machine) { r.close(); m.end(lost); r.open() },
		"while there is no agent for its pause": func(r *rig, sb id.Sandbox, m *machine) {
			r.killed(sb, func(rec *record) { rec.State, rec.Staged = Pausing, string(sb)+"-pause-2" }, func() { m.end(lost) })
		},
		"and comes as something else": func(r *rig, _ id.Sandbox, m *machine) { r.come(m, "not its memory") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newLazyRig(t)
			sb, key, m := r.wokenEarly()
			lose(r, sb, m)
			want := why
			if name == "and comes as something else" {
				want = "was not what was stored"
			}
			r.sleepsAgain(sb, key, want)
		})
	}
}

// TestAgentKilledWhileMemoryComes: whatever was written down last, the next agent goes on, and all comes.
func TestAgentKilledWhileMemoryComes(t *testing.T) {
	r := newLazyRig(t)
	sb, key := r.fetched()
	r.close()
	r.open()
	r.comesFrom(sb, key)
	r.killed(sb, func(rec *record) { rec.State = Resuming }, func() {})
	r.is(sb, Paused)
	r.comesFrom(sb, key)
	r.resume(sb)
	m := r.vmOf(sb)
	r.close()
	r.open()
	r.is(sb, Running)
	r.comesFrom(sb, key)
	r.close()
	r.come(m, "its memory")
	r.open()
	r.hasCome(sb)
	r.is(sb, Running)
	r.pause(sb)
	r.resume(sb)
	r.marked(sb, "kept")
}

// TestAsleepWithoutItsMemory: what can be done with a sandbox that was fetched and not woken.
func TestAsleepWithoutItsMemory(t *testing.T) {
	r := newLazyRig(t)
	sb, key := r.fetched()
	if again := r.store(sb); again.Key != key || again.SentBytes != 0 {
		t.Errorf("stored again as %+v", again)
	}
	r.comesFrom(sb, key)
	r.driver.restoreErr = &vm.MemoryLost{Reason: "its memory could not be brought"}
	if _, err := r.agent.Resume(t.Context(), sb); models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), "could not be brought") {
		t.Errorf("resume: %v", err)
	}
	r.driver.restoreErr = nil
	r.comesFrom(sb, key)
	if err := r.agent.Release(t.Context(), sb, key); err != nil {
		t.Fatal(err)
	}
	if _, err := r.fetch(sb, key); err != nil {
		t.Fatal(err)
	}
	kids, err := r.agent.Fork(t.Context(), sb, []Child{{ID: id.NewSandbox(), Network: models.DefaultNetwork()}})
	if err != nil || len(kids) != 1 {
		t.Fatalf("fork: %v", err)
	}
	r.comesFrom(sb, "")
	if _, err := r.agent.Destroy(t.Context(), kids[0].ID, 0); err != nil {
		t.Fatal(err)
	}
	if memory, err := os.ReadFile(r.sleepsIn(sb).Image().Memory); err != nil || !strings.HasPrefix(string(memory), "its memory\x00") {
		t.Errorf("its memory is %q, %v", memory[:min(20, len(memory))], err)
	}

	other, otherKey := r.fetched()
	r.driver.lazy = false // the next agent's kernel cannot do it
	r.resume(other)
	if m := r.vmOf(other); m.from.Lazy != nil {
		t.Errorf("it was woken from %+v, not %s", m.from.Lazy, otherKey)
	}
	r.comesFrom(other, "")
}

// TestScrubLeavesAloneWhatIsNotHere: a snapshot whose memory has not come is not damaged.
func TestScrubLeavesAloneWhatIsNotHere(t *testing.T) {
	r := newLazyRig(t)
	sb, _ := r.fetched()
	other := r.asleep("other")
	r.close()
	r.scrub = 1000
	r.open()
	verified := func(since time.Time) func() bool {
		return func() bool { now, err := r.agent.Sandbox(other.ID); return err == nil && now.Verified.After(since) }
	}
	r.eventually("all was looked at", verified(time.Time{}))
	now, err := r.agent.Sandbox(other.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("and again", verified(now.Verified))
	if now, err := r.agent.Sandbox(sb); err != nil || now.Damage != "" || !now.Verified.IsZero() {
		t.Errorf("it is %+v, %v", now, err)
	}
}
