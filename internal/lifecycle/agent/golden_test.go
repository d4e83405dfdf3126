package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// newGoldenRig is a rig that makes golden snapshots.
func newGoldenRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.close()
	r.golden = 1 << 10
	r.open()
	return r
}

// made creates a sandbox, and fails the test unless it was made the way that is wanted.
func (r *rig) made(golden bool) Sandbox {
	r.t.Helper()
	s, err := r.create()
	if err != nil {
		r.t.Fatal(err)
	}
	if restored := s.took("resume_guest"); restored != golden || s.took("start_vmm") == golden || (s.Resumed != nil) != golden {
		r.t.Fatalf("it was made by the steps %+v, with the certificate %+v; by a golden snapshot: want %v", s.Steps, s.Resumed, golden)
	}
	return s
}

func (s Sandbox) took(step string) bool {
	return slices.ContainsFunc(s.Steps, func(x models.Step) bool { return x.Name == step })
}

// minted waits for a golden snapshot, beside that of before, and for the end of its VM.
func (r *rig) minted(before string) GoldenSnapshot {
	r.t.Helper()
	var all []GoldenSnapshot
	r.eventually("a golden snapshot is made", func() bool {
		all = r.agent.GoldenSnapshots()
		return len(all) == 1 && all[0].ID != before
	})
	r.eventually("its VM is gone", func() bool { return len(r.driver.running()) == len(r.agent.Sandboxes()) })
	return all[0]
}

// kept lists what is in the golden store.
func (r *rig) kept() []string {
	all, err := os.ReadDir(filepath.Join(r.dir, "golden"))
	if err != nil {
		r.t.Fatal(err)
	}
	var names []string
	for _, one := range all {
		names = append(names, one.Name())
	}
	return names
}

// TestGolden: the first create boots, the next ones do not; nobody hears of the VM of the snapshot; what is made from one can do what others can, also under the next
// agent and after the snapshot has gone.
func TestGolden(t *testing.T) {
	r := newGoldenRig(t)
	_, changes, stop := r.agent.Watch()
	first := r.made(false)
	golden := r.minted("")
	second := r.made(true)
	if golden.Template != "tiny" || golden.Size != (models.Size{VCPUs: 1, MemoryMiB: 128, DiskMiB: 1}) || second.Size != first.Size {
		t.Errorf("golden snapshot %+v, sandboxes of %+v and %+v", golden, first.Size, second.Size)
	}
	stop()
	for c := range changes {
		if c.ID != first.ID && c.ID != second.ID {
			t.Errorf("watchers hear of %+v", c)
		}
	}
	r.mark(second.ID, "mine")
	if _, err := r.agent.Destroy(t.Context(), first.ID, 0); err != nil {
		t.Fatal(err)
	}
	r.close()
	r.driver.version = "newer"
	r.open()
	if left := r.kept(); len(left) > 0 {
		t.Errorf("golden snapshots of another VMM are kept: %v", left)
	}
	r.marked(second.ID, "mine")
	r.driver.version = ""
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

// TestGoldenClonesShareNothing: what two guests of one snapshot are told differs in all that tells them apart, and in their randomness.
func TestGoldenClonesShareNothing(t *testing.T) {
	r := newGoldenRig(t)
	r.made(false)
	r.minted("")
	r.driver.resumes = make(chan []byte, 2)
	seen := map[string]string{}
	for range 2 {
		s := r.made(true)
		var told struct {
			AccessToken, Hostname, MachineID, MAC string
			Entropy                               []byte
			Network                               struct{ Address, Gateway string }
		}
		if err := json.Unmarshal(<-r.driver.resumes, &told); err != nil {
			t.Fatal(err)
		}
		if told.Hostname != string(s.ID) || told.Network.Address[:len(s.Guest)] != s.Guest {
			t.Errorf("the guest of %+v was told %+v", s, told)
		}
		for what, value := range map[string]string{
			"token": told.AccessToken, "hostname": told.Hostname, "machine id": told.MachineID, "MAC": told.MAC,
			"address": told.Network.Address, "gateway": told.Network.Gateway, "entropy": string(told.Entropy), "VM": r.driver.spec(r.agent.runDir(s.ID)).Rootfs,
		} {
			if value == "" || seen[value] != "" {
				t.Errorf("%s %q, which %s has too", what, value, seen[value])
			}
			seen[value] = what + " of " + string(s.ID)
		}
	}
}

// TestGoldenOfNoUse: creates boot instead, and do not fail; it is removed and made anew.
func TestGoldenOfNoUse(t *testing.T) {
	for name, c := range map[string]struct {
		set, unset func(*rig, GoldenSnapshot)
	}{
		"damaged": {func(r *rig, g GoldenSnapshot) {
			_ = os.WriteFile(filepath.Join(r.dir, "golden", g.ID, "vmstate"), []byte("-"), 0o600)
		}, nil},
		"gone": {func(r *rig, g GoldenSnapshot) { _ = os.RemoveAll(filepath.Join(r.dir, "golden", g.ID)) }, nil},
		"does not restore": {
			func(r *rig, _ GoldenSnapshot) { r.driver.restoreErr = errors.New("no") }, func(r *rig, _ GoldenSnapshot) { r.driver.restoreErr = nil },
		},
		"certificate": {
			func(r *rig, _ GoldenSnapshot) { r.driver.failing = "randomness" }, func(r *rig, _ GoldenSnapshot) { r.driver.failing = "" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newGoldenRig(t)
			r.made(false)
			golden := r.minted("")
			c.set(r, golden)
			r.made(false)
			if c.unset != nil {
				c.unset(r, golden)
			}
			r.minted(golden.ID)
			r.made(true)
			r.eventually("the one of no use is gone", func() bool { return !slices.Contains(r.kept(), golden.ID) })
			if left := r.left(); len(left) != 4*3 {
				t.Errorf("of three sandboxes there is %v", left)
			}
		})
	}
}

// TestGoldenThatFailsAgain: where one after the other is of no use they are made less and less often.
func TestGoldenThatFailsAgain(t *testing.T) {
	r := newGoldenRig(t)
	r.made(false)
	golden := r.minted("")
	r.driver.failing = "clock"
	r.made(false)
	r.minted(golden.ID)
	r.made(false)
	r.agent.golden.mu.Lock()
	defer r.agent.golden.mu.Unlock()
	for of, w := range r.agent.golden.wanted {
		if w.failures != 2 || w.due.IsZero() {
			t.Errorf("the next one of %v: %+v", of, w)
		}
	}
	if len(r.agent.golden.wanted) != 1 || len(r.agent.golden.have) != 0 {
		t.Errorf("wanted %v, there are %v", r.agent.golden.wanted, r.agent.golden.have)
	}
}

// TestGoldenIsStale: one of another template, kernel or VMM is removed by the agent that finds it so; one that still fits is used.
func TestGoldenIsStale(t *testing.T) {
	for name, change := range map[string]func(*rig){
		"nothing":  func(*rig) {},
		"template": func(r *rig) { r.digest = "sha256:fedcba9876543210" },
		"kernel":   func(r *rig) { r.kernel = "two" },
		"VMM":      func(r *rig) { r.driver.version = "newer" },
	} {
		t.Run(name, func(t *testing.T) {
			r := newGoldenRig(t)
			r.made(false)
			golden := r.minted("")
			r.close()
			change(r)
			r.open()
			if name == "nothing" {
				r.made(true)
				return
			}
			if left := r.kept(); len(left) > 0 {
				t.Errorf("there is still %v", left)
			}
			r.made(false)
			r.minted(golden.ID)
			r.made(true)
		})
	}
}

// TestGoldenDamagedWhileNobodyLooked: what no restore would notice the next agent's check does.
func TestGoldenDamagedWhileNobodyLooked(t *testing.T) {
	r := newGoldenRig(t)
	r.made(false)
	golden := r.minted("")
	rootfs := filepath.Join(r.dir, "golden", golden.ID, "rootfs")
	if err := os.WriteFile(rootfs, bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r.close()
	r.open()
	r.minted(golden.ID)
	r.made(true)
}

// TestAgentKilledDuringGolden: of what was half made nothing is left, and it is made when it is asked for again.
func TestAgentKilledDuringGolden(t *testing.T) {
	r := newGoldenRig(t)
	reached, goOn := make(chan struct{}), make(chan struct{})
	r.driver.snapshots = func() { close(reached); <-goOn }
	s := r.made(false)
	<-reached
	copied := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", r.dir, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	close(goOn)
	r.driver.snapshots = nil
	r.minted("")
	r.close()
	for _, name := range []string{"sandboxes", "golden"} {
		err := errors.Join(os.RemoveAll(filepath.Join(r.dir, name)), os.Rename(filepath.Join(copied, name), filepath.Join(r.dir, name)))
		if err != nil {
			t.Fatal(err)
		}
	}
	if half, err := os.ReadDir(filepath.Join(r.dir, "sandboxes")); err != nil || len(half) != 2 || len(r.kept()) != 1 {
		t.Fatalf("the agent was killed with %v and %v, %v", half, r.kept(), err)
	}
	r.open()
	if left := r.left(); len(left) != 4 || len(r.kept()) != 0 {
		t.Errorf("beside %s there is left %v and %v", s.ID, left, r.kept())
	}
	r.made(false)
	r.minted("")
	r.made(true)
}

// TestGoldenGivesWay: none is made beside a create that waits; the agent's end breaks off the making, of which nothing is left.
func TestGoldenGivesWay(t *testing.T) {
	r := newGoldenRig(t)
	hold := make(chan struct{})
	r.driver.hold = hold
	created := make(chan error, 1)
	go func() {
		_, err := r.create()
		created <- err
	}()
	r.eventually("the VM boots", func() bool { return len(r.driver.running()) == 1 })
	for range 50 { // it would have begun within a few of these
		if n := len(r.driver.running()); n != 1 {
			t.Fatalf("beside a create that waits there are %d VMs", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	var reached atomic.Bool
	r.driver.snapshots = func() { reached.Store(true) }
	close(hold)
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	r.driver.mu.Lock()
	r.driver.hold = make(chan struct{}) // which nobody closes: the guest of the snapshot does not answer
	r.driver.mu.Unlock()
	r.eventually("the VM of the snapshot boots, or is frozen already", func() bool { return len(r.driver.running()) == 2 || reached.Load() })
	r.close()
	r.open()
	if left := r.left(); len(left) != 4 {
		t.Errorf("of one sandbox there is %v", left)
	}
}

// TestGoldenBudget: the one that was not asked for for longest goes; what is too large is not made; without a budget there are none.
func TestGoldenBudget(t *testing.T) {
	r := newGoldenRig(t)
	r.close()
	r.golden, r.driver.memoryMiB = 150, 100
	r.open()
	r.made(false)
	golden := r.minted("")
	small := models.Size{VCPUs: 2, MemoryMiB: 128}
	if _, err := r.agent.Create(t.Context(), Request{ID: id.NewSandbox(), Template: "tiny", Size: small}); err != nil {
		t.Fatal(err)
	}
	second := r.minted(golden.ID)
	if second.Size.VCPUs != 2 {
		t.Errorf("there is %+v", second)
	}
	if err := r.agent.roomForGolden(shape{"tiny", models.Size{MemoryMiB: 151}}); models.CodeOf(err) != models.Exhausted {
		t.Errorf("one that is larger than the budget: %v", err)
	}
	r.close()
	r.golden = 0
	r.open()
	r.eventually("all are gone", func() bool { return len(r.kept()) == 0 })
	r.made(false)
	if n := len(r.agent.golden.wanted); n != 0 {
		t.Errorf("%d are wanted", n)
	}
}

// TestLowerPriority: a process and what it starts come last.
func TestLowerPriority(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as a VMM: else it would be this test's session
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	if err := setPriority(vm.Saved{PID: cmd.Process.Pid, Cgroup: t.TempDir()}, last); err != nil {
		t.Error(err)
	}
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/autogroup", cmd.Process.Pid))
	if err == nil && !strings.HasSuffix(string(group), "nice 19\n") {
		t.Errorf("its session is %s", group)
	}
	// getpriority(2) of the system call itself gives 20 less the priority.
	if priority, err := unix.Getpriority(unix.PRIO_PROCESS, cmd.Process.Pid); err != nil || priority != 1 {
		t.Errorf("its priority is %d, %v", 20-priority, err)
	}
}
