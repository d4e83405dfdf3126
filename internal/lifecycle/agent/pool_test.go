package agent

import (
	"encoding/json"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// newPoolRig is a rig that restores VMs ahead, with one sandbox, and one VM that waits.
func newPoolRig(t *testing.T, change func(*rig)) (r *rig, first Sandbox) {
	t.Helper()
	r = newRig(t)
	r.close()
	r.golden, r.pool = 1<<10, 1<<10
	if change != nil {
		change(r)
	}
	r.open()
	first = r.made(false)
	r.pooled(1)
	return r, first
}

// pooled waits until so many VMs wait, and nothing else runs but the sandboxes.
func (r *rig) pooled(count int) {
	r.t.Helper()
	r.eventually("the VMs of the pool wait", func() bool {
		sum := 0
		for _, p := range r.agent.Pool() {
			sum += p.Count
		}
		return sum == count && len(r.driver.running()) == count+len(r.agent.Sandboxes())
	})
}

// claimed creates a sandbox, and fails the test unless it got a VM that waited.
func (r *rig) claimed() Sandbox {
	r.t.Helper()
	s, err := r.create()
	if err != nil {
		r.t.Fatal(err)
	}
	if !s.took("take_from_pool") || s.took("restore_vm") || s.took("start_vmm") || s.Resumed == nil || s.State != Running {
		r.t.Fatalf("it was made by the steps %+v, with the certificate %+v", s.Steps, s.Resumed)
	}
	return s
}

// frozen counts the VMs that stand still.
func (r *rig) frozen() (count int) {
	for _, m := range r.driver.running() {
		if m.frozen.Load() {
			count++
		}
	}
	return count
}

// TestPool: after the first create a VM waits, standing still, which nobody hears of; the next create gets it, and it is a sandbox like others then: under the next agent, asleep and
// destroyed. The end of the agent ends the VMs of its pool.
func TestPool(t *testing.T) {
	r, first := newPoolRig(t, nil)
	_, changes, stop := r.agent.Watch()
	if n := r.frozen(); n != 1 {
		t.Errorf("%d VMs stand still", n)
	}
	second := r.claimed()
	r.pooled(2) // as many as were asked for at once
	if n := r.frozen(); n != 2 {
		t.Errorf("of two that wait %d stand still", n)
	}
	stop()
	for c := range changes {
		if c.ID != first.ID && c.ID != second.ID {
			t.Errorf("watchers hear of %+v", c)
		}
	}
	if second.Size != first.Size || second.EnvdVersion != r.claimed().EnvdVersion {
		t.Errorf("it is %+v beside %+v", second, first)
	}
	r.mark(second.ID, "mine")
	r.close()
	r.pool = 0
	r.open()
	if left := r.left(); len(left) != 3*4 {
		t.Errorf("of three sandboxes the next agent finds %v", left)
	}
	for _, s := range r.agent.Sandboxes() {
		if s.ID == second.ID {
			continue
		}
		if _, err := r.agent.Destroy(t.Context(), s.ID, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.marked(second.ID, "mine")
	r.pause(second.ID)
	r.resume(second.ID)
	r.marked(second.ID, "mine")
	if _, err := r.agent.Destroy(t.Context(), second.ID, 0); err != nil {
		t.Fatal(err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}

// TestPoolSharesNothing: what a guest is told when it changes hands differs from all that it and others were told before, but for its address, which goes with the VM.
func TestPoolSharesNothing(t *testing.T) {
	resumes := make(chan []byte, 100)
	r, _ := newPoolRig(t, func(r *rig) { r.driver.resumes = resumes })
	var made []Sandbox
	for range 2 {
		made = append(made, r.claimed())
		r.pooled(len(made) + 1)
	}
	seen, addresses := map[string]bool{}, map[string]int{}
	told := len(resumes)
	for range told {
		var to struct {
			AccessToken, Hostname, MachineID, MAC string
			Entropy                               []byte
			Network                               struct{ Address string }
		}
		if err := json.Unmarshal(<-resumes, &to); err != nil {
			t.Fatal(err)
		}
		for _, value := range []string{to.AccessToken, to.Hostname, to.MachineID, to.MAC, string(to.Entropy)} {
			if value == "" || seen[value] {
				t.Errorf("%q was told before, or not at all", value)
			}
			seen[value] = true
		}
		addresses[to.Network.Address]++
	}
	for _, s := range made {
		if !seen[string(s.ID)] || addresses[s.Guest+"/30"] != 2 {
			t.Errorf("of %+v the guests were told %v, %v", s, seen, addresses)
		}
	}
	if told != len(addresses)+len(made) {
		t.Errorf("guests were told %d times, with the addresses %v", told, addresses)
	}
}

// TestAgentKilledWithPool: an agent that is killed while VMs wait, are made or change hands leaves nothing but its sandboxes.
func TestAgentKilledWithPool(t *testing.T) {
	for name, reach := range map[string]func(r *rig, first id.Sandbox, reached chan<- struct{}, goOn <-chan struct{}) (finish func()){
		"waiting": func(_ *rig, _ id.Sandbox, reached chan<- struct{}, _ <-chan struct{}) func() {
			reached <- struct{}{}
			return func() {}
		},
		"being made": func(r *rig, _ id.Sandbox, reached chan<- struct{}, goOn <-chan struct{}) func() {
			var once atomic.Bool
			r.driver.restores = func() {
				if once.CompareAndSwap(false, true) {
					reached <- struct{}{}
					<-goOn
				}
			}
			r.claimed()
			return func() {}
		},
		"changing hands": func(r *rig, first id.Sandbox, reached chan<- struct{}, goOn <-chan struct{}) func() {
			r.driver.certifies = func() { reached <- struct{}{}; <-goOn }
			created := make(chan error)
			go func() {
				_, err := r.create()
				created <- err
			}()
			return func() {
				if err := <-created; err != nil {
					r.t.Error(err)
				}
				for _, m := range r.driver.running() { // as the kernel knows a VMM that was killed
					if m.saved.Dir != r.agent.runDir(first) {
						_, _ = m.Kill()
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, first := newPoolRig(t, nil)
			reached, goOn := make(chan struct{}, 100), make(chan struct{})
			finish := reach(r, first.ID, reached, goOn)
			<-reached
			copied := filepath.Join(t.TempDir(), "copy")
			if out, err := exec.Command("cp", "-a", filepath.Join(r.dir, "sandboxes"), copied).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			running := r.running()
			if half, err := os.ReadDir(copied); err != nil || len(half) != running+1 {
				t.Fatalf("it was killed with %v beside %d running, %v", half, running, err)
			}
			close(goOn)
			finish()
			r.close()
			sandboxes := filepath.Join(r.dir, "sandboxes")
			if err := os.RemoveAll(sandboxes); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(copied, sandboxes); err != nil {
				t.Fatal(err)
			}
			r.open()
			for _, s := range r.agent.Sandboxes() {
				if s.State != Running {
					t.Errorf("there is %+v", s)
				}
			}
			if _, err := r.agent.Sandbox(first.ID); err != nil || r.running() != running {
				t.Errorf("%v, %d are running", err, r.running())
			}
			r.holdsOnly(running)
			if kept, _ := filepath.Glob(filepath.Join(r.dir, "failed", "*")); len(kept) > 1 {
				t.Errorf("of VMs that nobody asked for there are %v", kept)
			}
		})
	}
}

// running counts the sandboxes that run.
func (r *rig) running() (count int) {
	for _, s := range r.agent.Sandboxes() {
		if s.State == Running {
			count++
		}
	}
	return count
}

// holdsOnly fails the test unless the host holds so many sandboxes and nothing else: of each a folder, a device, a VM and its place in the list.
func (r *rig) holdsOnly(count int) {
	r.t.Helper()
	if left := r.left(); len(left) != 4*count {
		r.t.Errorf("of %d sandboxes there is %v", count, left)
	}
}

// TestPoolGivesWayToMemory: a VM that waits is gone before the VM of a sandbox begins that needs its room, and none comes back until there is room.
func TestPoolGivesWayToMemory(t *testing.T) {
	var available atomic.Int64
	available.Store(1 << 20)
	r, _ := newPoolRig(t, func(r *rig) {
		r.memory = func() (int64, int64, error) { return 1 << 20, available.Load(), nil }
	})
	available.Store(64)
	larger := Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 2, MemoryMiB: 128}}
	if _, err := r.agent.Create(t.Context(), larger); err != nil {
		t.Fatal(err)
	}
	r.pooled(0)
	r.holdsOnly(2)
	available.Store(1 << 20)
	r.agent.pool.mu.Lock()
	clear(r.agent.pool.trials) // those that were put off meanwhile are tried at once
	r.agent.pool.mu.Unlock()
	r.agent.pool.nudge()
	r.pooled(2) // one of each size
}

// TestPoolGivesWayToResume: so it is with one that wakes.
func TestPoolGivesWayToResume(t *testing.T) {
	var total atomic.Int64
	total.Store(1 << 20)
	r, first := newPoolRig(t, func(r *rig) {
		r.memory = func() (int64, int64, error) { return total.Load(), 1 << 20, nil }
	})
	if _, err := r.agent.Pause(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	total.Store(200) // of which each takes 128
	if _, err := r.agent.Resume(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	r.pooled(0)
	r.holdsOnly(1)
}

// TestPoolGivesWayToSlots: the last network addresses are for sandboxes.
func TestPoolGivesWayToSlots(t *testing.T) {
	r, first := newPoolRig(t, func(r *rig) { r.subnet = "10.0.0.0/29" })
	before := r.taps()
	larger := Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 2, MemoryMiB: 128}}
	if _, err := r.agent.Create(t.Context(), larger); err != nil {
		t.Fatal(err)
	}
	r.pooled(0)
	delete(before, network.TAPName(first.ID))
	if after := r.taps()[network.TAPName(larger.ID)]; after == 0 || slices.Contains(slices.Collect(maps.Values(before)), after) {
		t.Errorf("its device is %d, and one of %v was another VM's", after, before)
	}
	if _, err := r.create(); models.CodeOf(err) != models.Exhausted {
		t.Errorf("without any address left: %v", err)
	}
}

// TestPoolOfNoUse: what has died is replaced, and what cannot give its guest another identity is replaced by a boot; no create fails.
func TestPoolOfNoUse(t *testing.T) {
	r, _ := newPoolRig(t, nil)
	for _, m := range r.driver.running() {
		if m.frozen.Load() {
			_, _ = m.Kill()
		}
	}
	r.madeBy("restore_vm", "take_from_pool")
	r.pooled(2)
	var asked atomic.Int32
	r.driver.failing, r.driver.certifies = "randomness", func() {
		if asked.Add(1) > 1 {
			r.driver.failing = ""
		}
	}
	r.madeBy("move_in_failed", "start_vmm")
	r.close()
	r.holdsOnly(3)
	r.open()
}

// taps are the devices of sandboxes, and those made ahead, with their indexes.
func (r *rig) taps() map[string]int {
	r.t.Helper()
	taps := map[string]int{}
	err := netns.Do(r.netns, func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if strings.HasPrefix(link.Name, "tap-") {
				taps[link.Name] = link.Index
			}
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return taps
}

// madeBy creates a sandbox that takes one step and does not take another.
func (r *rig) madeBy(with, without string) {
	r.t.Helper()
	s, err := r.create()
	if err != nil || !s.took(with) || s.took(without) {
		r.t.Fatalf("%v, it was made by the steps %+v", err, s.Steps)
	}
}

// TestPoolOfAnotherTemplate: what waits of a template that has changed is not handed out.
func TestPoolOfAnotherTemplate(t *testing.T) {
	r, _ := newPoolRig(t, nil)
	r.digest = "sha256:fedcba9876543210"
	if _, err := r.agent.cfg.Images.Import(t.Context(), r.template()); err != nil {
		t.Fatal(err)
	}
	s, err := r.create()
	if err != nil || s.took("take_from_pool") {
		t.Errorf("%v, it was made by the steps %+v", err, s.Steps)
	}
}

// TestPoolNameInUse: no sandbox gets the name of a folder that another one has.
func TestPoolNameInUse(t *testing.T) {
	r, _ := newPoolRig(t, nil)
	s := r.claimed()
	folders, err := os.ReadDir(filepath.Join(r.dir, "sandboxes"))
	if err != nil {
		t.Fatal(err)
	}
	taken := slices.DeleteFunc(folders, func(e os.DirEntry) bool { _, err := r.agent.Sandbox(id.Sandbox(e.Name())); return err == nil })
	for _, e := range taken {
		_, err := r.agent.Create(t.Context(), Request{ID: id.Sandbox(e.Name()), Template: "tiny", Size: s.Size})
		if models.CodeOf(err) != models.Conflict {
			t.Errorf("a sandbox of the name of the folder %s: %v", e.Name(), err)
		}
	}
	if len(taken) == 0 {
		t.Errorf("all of %v are sandboxes", folders)
	}
}

// TestNoPool: without a budget nothing waits.
func TestNoPool(t *testing.T) {
	r := newGoldenRig(t)
	r.made(false)
	r.minted("")
	r.made(true)
	if len(r.agent.Pool()) != 0 || len(r.agent.pool.asked) != 0 {
		t.Errorf("there wait %v, asked for were %v", r.agent.Pool(), r.agent.pool.asked)
	}
}
