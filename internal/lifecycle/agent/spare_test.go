package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// newSpareRig is a rig with one sandbox, and a VMM that waits.
func newSpareRig(t *testing.T, change func(*rig)) (r *rig, first Sandbox) {
	t.Helper()
	r = newRig(t)
	r.close()
	r.golden, r.spares = 1<<10, 2
	if change != nil {
		change(r)
	}
	r.open()
	first = r.made(false)
	r.minted("")
	r.spared(1)
	return r, first
}

// spared waits until so many VMMs wait.
func (r *rig) spared(count int) {
	r.t.Helper()
	r.eventually("VMMs wait that were started ahead", func() bool { return len(r.driver.spares()) == count })
}

// TestSpare: after the first create a VMM waits, of which nobody hears; the next create is restored in it, and is a sandbox like others then: under the next agent, asleep and
// destroyed. The end of the agent ends those that wait.
func TestSpare(t *testing.T) {
	r, first := newSpareRig(t, nil)
	_, changes, stop := r.agent.Watch()
	second := r.made(true)
	if !second.took("take_spare") || second.Guest == first.Guest {
		t.Errorf("it was made by the steps %+v, with the address %s", second.Steps, second.Guest)
	}
	r.spared(1)
	stop()
	for c := range changes {
		if c.ID != first.ID && c.ID != second.ID {
			t.Errorf("watchers hear of %+v", c)
		}
	}
	r.mark(second.ID, "mine")
	r.close()
	if left := r.driver.spares(); len(left) > 0 {
		t.Errorf("the end of the agent leaves %v", left)
	}
	r.spares = 0
	r.open()
	r.holdsOnly(2)
	if _, err := r.agent.Destroy(t.Context(), first.ID, 0); err != nil {
		t.Fatal(err)
	}
	r.marked(second.ID, "mine")
	r.pause(second.ID)
	r.resume(second.ID)
	r.marked(second.ID, "mine")
	if _, err := r.agent.Destroy(t.Context(), second.ID, 0); err != nil {
		t.Fatal(err)
	}
	r.holdsOnly(0)
	if third := r.made(true); third.took("take_spare") {
		t.Errorf("without spares it was made by the steps %+v", third.Steps)
	}
}

// TestSpareOfEachKind: one waits of each size that was asked for, as many as there may be, and that of a golden snapshot which is not any more goes.
func TestSpareOfEachKind(t *testing.T) {
	r, _ := newSpareRig(t, nil)
	for _, memory := range []int{256, 384} {
		for range 2 {
			if _, err := r.agent.Create(t.Context(), Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: memory}}); err != nil {
				t.Fatal(err)
			}
			r.eventually("there is a golden snapshot of it", func() bool { return len(r.agent.GoldenSnapshots()) == memory/128 })
		}
		r.spared(2)
	}
	for _, one := range r.agent.golden.all() {
		r.agent.golden.mu.Lock()
		one.asked = time.Now().Add(-demandLasts)
		r.agent.golden.mu.Unlock()
	}
	r.agent.spares.nudge()
	r.spared(0)
	r.eventually("nothing of them is left", func() bool { return len(r.left()) == 4*5 })
}

// TestSpareOfNoUse: where the restore in it fails, or its guest cannot be given another identity, there is another VMM, and at last a boot; no create fails.
func TestSpareOfNoUse(t *testing.T) {
	r, _ := newSpareRig(t, nil)
	r.driver.startErr = errors.New("no")
	r.driver.restores = func() {
		r.driver.restores = func() { r.driver.startErr = nil } // in the second VMM it succeeds
	}
	r.madeBy("move_in_failed", "start_vmm")
	r.spared(1)
	r.driver.failing = "randomness"
	r.madeBy("start_vmm", "resume_guest")
	r.close()
	r.holdsOnly(3)
	r.open()
}

// TestSpareCannotBeStarted: creates do without.
func TestSpareCannotBeStarted(t *testing.T) {
	r := newGoldenRig(t)
	r.made(false)
	r.minted("")
	r.close()
	r.spares, r.driver.restoreErr = 1, errors.New("no")
	r.open()
	r.made(false)
	r.close()
	r.holdsOnly(2)
	r.open()
}

// TestSpareOfAnotherTemplate: what waits of a template that has changed is not used.
func TestSpareOfAnotherTemplate(t *testing.T) {
	r, _ := newSpareRig(t, nil)
	r.digest = "sha256:fedcba9876543210"
	if _, err := r.agent.cfg.Images.Import(t.Context(), r.template()); err != nil {
		t.Fatal(err)
	}
	r.made(false)
	r.spared(0)
}

// TestSpareGivesWayToSlots: the last network addresses are for sandboxes.
func TestSpareGivesWayToSlots(t *testing.T) {
	r, _ := newSpareRig(t, func(r *rig) { r.subnet = "10.0.0.0/29" })
	larger := Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 2, MemoryMiB: 128}}
	if _, err := r.agent.Create(t.Context(), larger); err != nil {
		t.Fatal(err)
	}
	if left := r.driver.spares(); len(left) > 0 {
		t.Errorf("there wait %v", left)
	}
}

// TestAgentKilledWithSpare: of an agent that is killed while a VMM waits, or while a sandbox moves into it, the next one finds nothing but the sandboxes that run.
func TestAgentKilledWithSpare(t *testing.T) {
	for name, moving := range map[string]bool{"waiting": false, "moving in": true} {
		t.Run(name, func(t *testing.T) {
			r, first := newSpareRig(t, nil)
			reached, goOn, created := make(chan struct{}, 9), make(chan struct{}), make(chan error, 1)
			if moving {
				r.driver.certifies = func() { reached <- struct{}{}; <-goOn }
				go func() {
					_, err := r.create()
					created <- err
				}()
				<-reached
			} else {
				created <- nil
			}
			copied := filepath.Join(t.TempDir(), "copy")
			if out, err := exec.Command("cp", "-a", filepath.Join(r.dir, "sandboxes"), copied).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if half, err := os.ReadDir(copied); err != nil || len(half) < 2 {
				t.Fatalf("it was killed with %v, %v", half, err)
			}
			close(goOn)
			if err := <-created; err != nil {
				t.Error(err)
			}
			for _, m := range r.driver.running() { // as the kernel knows a VMM that was killed
				if m.saved.Dir != r.agent.runDir(first.ID) {
					_, _ = m.Kill()
				}
			}
			r.close()
			sandboxes := filepath.Join(r.dir, "sandboxes")
			if err := errors.Join(os.RemoveAll(sandboxes), os.Rename(copied, sandboxes)); err != nil {
				t.Fatal(err)
			}
			r.spares = 0
			r.open()
			if _, err := r.agent.Sandbox(first.ID); err != nil || r.running() != 1 {
				t.Errorf("%v, %d are running", err, r.running())
			}
			r.holdsOnly(1)
		})
	}
}
