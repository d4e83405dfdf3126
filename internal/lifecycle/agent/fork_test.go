package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// children are n sandboxes that do not exist yet.
func children(n int) []Child {
	all := make([]Child, n)
	for i := range all {
		all[i] = Child{ID: id.NewSandbox(), Network: models.DefaultNetwork()}
	}
	return all
}

func (r *rig) fork(parent id.Sandbox, n int) []Sandbox {
	r.t.Helper()
	kids, err := r.agent.Fork(r.t.Context(), parent, children(n))
	if err != nil || len(kids) != n {
		r.t.Fatalf("fork: %+v, %v", kids, err)
	}
	return kids
}

// goes fails the test unless a sandbox is in a state, and its VM runs if it does.
func (r *rig) goes(sb id.Sandbox, want State) {
	r.t.Helper()
	now, err := r.agent.Sandbox(sb)
	if err != nil || now.State != want {
		r.t.Fatalf("%s is %+v, %v, want %s", sb, now, err, want)
	}
	running, _ := r.agent.mustFind(sb).machine()
	if m, ok := running.(*machine); want == Running && (!ok || m.frozen.Load()) {
		r.t.Errorf("the VM of %s does not go on: %+v", sb, m)
	}
}

func (a *Agent) mustFind(sb id.Sandbox) *sandbox {
	s, err := a.find(sb)
	if err != nil {
		panic(err)
	}
	return s
}

// undone fails the test unless what a fork or a snapshot needs for a while is gone.
func (r *rig) undone() {
	r.t.Helper()
	for _, dir := range []string{"forks", "intents"} {
		if left, err := os.ReadDir(filepath.Join(r.dir, dir)); err != nil || len(left) > 0 {
			r.t.Errorf("in %s there is left %v, %v", dir, left, err)
		}
	}
}

// TestFork: children have what their parent has, and nothing that is its own; each goes its own way from there, also when the parent is gone and under
// the next agent; repeated, it is done once; of a parent that sleeps it is the same.
func TestFork(t *testing.T) {
	for _, asleep := range []bool{false, true} {
		r := newRig(t)
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		r.mark(s.ID, "parent")
		state := Running
		if asleep {
			r.pause(s.ID)
			state = Paused
		}
		r.driver.resumes = make(chan []byte, 8)
		asked := children(3)
		kids, err := r.agent.Fork(t.Context(), s.ID, asked)
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.agent.Fork(t.Context(), s.ID, asked)
		if err != nil || len(again) != 3 || again[2].ID != asked[2].ID || len(r.driver.resumes) != 3 {
			t.Errorf("repeated: %+v, %v, with %d resumes", again, err, len(r.driver.resumes))
		}
		r.goes(s.ID, state)
		r.undone()
		r.ownSelves(kids)
		for i, kid := range kids {
			if kid.ID != asked[i].ID || kid.Size != r.agent.mustFind(s.ID).view().Size || kid.Guest == s.Guest || kid.Resumed == nil || !kid.took("resume_guest") {
				t.Errorf("child %d is %+v", i, kid)
			}
			r.goes(kid.ID, Running)
			r.marked(kid.ID, "parent")
			r.mark(kid.ID, "child"+string(rune('0'+i)))
		}
		if !asleep {
			r.marked(s.ID, "parent")
		}
		if _, err := r.agent.Destroy(t.Context(), s.ID, 0); err != nil {
			t.Fatal(err)
		}
		r.driver.resumes = nil
		r.close()
		r.open()
		for i, kid := range kids {
			if _, err := r.agent.Pause(t.Context(), kid.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := r.agent.Resume(t.Context(), kid.ID); err != nil {
				t.Fatal(err)
			}
			r.marked(kid.ID, "child"+string(rune('0'+i)))
			if _, err := r.agent.Destroy(t.Context(), kid.ID, 0); err != nil {
				t.Fatal(err)
			}
		}
		if left := r.left(); len(left) > 0 {
			t.Errorf("there is left %v", left)
		}
	}
}

// ownSelves fails the test where two guests were told the same, or one was not told all.
func (r *rig) ownSelves(kids []Sandbox) {
	r.t.Helper()
	seen := map[string]bool{}
	for range kids {
		var told struct {
			AccessToken, MachineID, MAC, Hostname string
			Network                               struct{ Address string }
		}
		if err := json.Unmarshal(<-r.driver.resumes, &told); err != nil {
			r.t.Fatal(err)
		}
		for _, own := range []string{told.AccessToken, told.MachineID, told.MAC, told.Hostname, told.Network.Address} {
			if own == "" || seen[own] {
				r.t.Errorf("%q is nobody's own: %+v", own, told)
			}
			seen[own] = true
		}
	}
	for _, kid := range kids {
		if !seen[string(kid.ID)] || !seen[r.agent.mustFind(kid.ID).token()] {
			r.t.Errorf("%s was not told its name, or not its token", kid.ID)
		}
	}
}

// TestForkThatFails leaves no child, and the parent as it was.
func TestForkThatFails(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	d := r.driver
	asked := children(3)
	for name, c := range map[string]struct {
		set, unset func()
		code       models.Code
		text       string
	}{
		"disk full":    {func() { d.snapshotErr = unix.ENOSPC }, func() { d.snapshotErr = nil }, models.Exhausted, "disk is full"},
		"restore":      {func() { d.restoreErr = errors.New("no") }, func() { d.restoreErr = nil }, models.Internal, "could not be forked"},
		"one child":    {func() { d.failOn = asked[1].ID }, func() { d.failOn = "" }, models.Internal, "could not be forked"},
		"certificate":  {func() { d.failing = "randomness" }, func() { d.failing = "" }, models.Unavailable, "randomness: no"},
		"children die": {func() { d.dies = true }, func() { d.dies = false }, models.Unavailable, "its VM ended"},
		"old VMM":      {func() { d.noRestore = "it is too old" }, func() { d.noRestore = "" }, models.Precondition, "too old"},
		"new VMM":      {func() { d.version = "newer" }, func() { d.version = "" }, models.Precondition, "version"},
	} {
		for _, state := range []State{Running, Paused} {
			if name == "disk full" && state == Paused || name == "old VMM" && state == Paused {
				continue
			}
			if state == Paused {
				r.pause(s.ID)
			}
			c.set()
			if _, err := r.agent.Fork(t.Context(), s.ID, asked); models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s, of one that is %s: %v", name, state, err)
			}
			c.unset()
			r.is(s.ID, state)
			r.undone()
			if left := r.left(); len(left) > 4 {
				t.Errorf("%s: there is left %v", name, left)
			}
			if state == Paused {
				r.resume(s.ID)
			}
		}
	}
	r.fork(s.ID, 1)
}

// TestBadForks are refused before anything is done.
func TestBadForks(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	twice := children(2)
	twice[1].ID = twice[0].ID
	half := append(children(1), Child{ID: s.ID})
	bad := children(1)
	bad[0].ID = "../x"
	limits := children(1)
	limits[0].Network.Limits.Connections = -1
	for name, c := range map[string]struct {
		parent   id.Sandbox
		children []Child
		code     models.Code
	}{
		"none":           {s.ID, nil, models.Invalid},
		"too many":       {s.ID, children(models.MaxForks + 1), models.Invalid},
		"twice":          {s.ID, twice, models.Invalid},
		"no id":          {s.ID, bad, models.Invalid},
		"bad policy":     {s.ID, limits, models.Invalid},
		"half there":     {s.ID, half, models.Conflict},
		"unknown parent": {"sb-00000000", children(1), models.NotFound},
	} {
		if _, err := r.agent.Fork(t.Context(), c.parent, c.children); models.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.is(s.ID, Running)
	r.undone()
}

// TestDestroyBeatsFork: that of a child undoes it, that of the parent ends it while the parent stands still; afterwards it does not matter.
func TestDestroyBeatsFork(t *testing.T) {
	for name, c := range map[string]struct {
		parent, frozen bool
		want           models.Code
	}{
		"a child":                {false, false, models.Conflict},
		"the parent, frozen":     {true, true, models.Conflict},
		"the parent, afterwards": {true, false, ""},
	} {
		r := newRig(t)
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		asked := children(2)
		victim := asked[0].ID
		if c.parent {
			victim = s.ID
		}
		destroyed := make(chan error, 1)
		once := make(chan struct{}, 1)
		hook := func() {
			select {
			case once <- struct{}{}:
			default:
				return
			}
			go func() {
				_, err := r.agent.Destroy(t.Context(), victim, 0)
				destroyed <- err
			}()
			<-r.agent.mustFind(victim).ctx.Done()
		}
		if c.frozen {
			r.driver.snapshots = hook
		} else {
			r.driver.restores = hook
		}
		kids, err := r.agent.Fork(t.Context(), s.ID, asked)
		if c.want == "" && err != nil || c.want != "" && models.CodeOf(err) != c.want {
			t.Errorf("destroy of %s: %+v, %v", name, kids, err)
		}
		if err := <-destroyed; err != nil {
			t.Error(err)
		}
		r.undone()
		for _, sb := range []id.Sandbox{s.ID, asked[0].ID, asked[1].ID} {
			if _, err := r.agent.Destroy(t.Context(), sb, 0); err != nil {
				t.Error(err)
			}
		}
		if left := r.left(); len(left) > 0 {
			t.Errorf("%s: there is left %v", name, left)
		}
	}
}

// TestAgentKilledDuringFork: while the intent is there, the next agent lets the parent go on and removes all children, however far they have come; without it
// they are there.
func TestAgentKilledDuringFork(t *testing.T) {
	for _, done := range []bool{false, true} {
		r := newRig(t)
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		kids := r.fork(s.ID, 2)
		r.close()
		if !done {
			r.crashedInFork(s.ID, kids)
			r.driver.inits = make(chan []byte, 8)
		}
		r.open()
		r.undone()
		r.goes(s.ID, Running)
		if !done {
			r.toldTheTime()
		}
		if all := r.agent.Sandboxes(); len(all) != map[bool]int{false: 1, true: 3}[done] {
			t.Errorf("done %v: there are %+v", done, all)
		}
		if !done && len(r.driver.running()) != 1 {
			t.Errorf("there are the VMs %v", r.driver.running())
		}
	}
}

// crashedInFork makes the host what an agent leaves that dies before the last step of a fork: one child has its last record, the other has none.
func (r *rig) crashedInFork(parent id.Sandbox, kids []Sandbox) {
	r.t.Helper()
	r.agent.mustFind(parent).vm.(*machine).frozen.Store(true)
	err := errors.Join(
		r.agent.intend("x", intent{Sandbox: parent, Children: []id.Sandbox{kids[0].ID, kids[1].ID}}),
		os.Remove(recordPath(r.agent.dir(kids[1].ID))),
		os.MkdirAll(filepath.Join(r.dir, "forks", ".fork-x.1.wrenn-tmp"), 0o700),
	)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range r.driver.running() { // of a VM that no record names the stand-in has no process to be found
		if strings.Contains(m.saved.Dir, string(kids[1].ID)) || strings.Contains(m.saved.Dir, string(kids[0].ID)) {
			m.end(vm.Exit{})
		}
	}
}
