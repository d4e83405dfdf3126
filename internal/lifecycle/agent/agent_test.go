package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

func TestFailedCreateLeavesNothing(t *testing.T) {
	for name, broken := range map[string]struct {
		set  func(*driver)
		code models.Code
		text string
	}{
		"configure":      {func(d *driver) { d.configureErr = errors.New("no") }, models.Internal, "could not be made"},
		"start":          {func(d *driver) { d.startErr = errors.New("no") }, models.Internal, "could not be made"},
		"dies at boot":   {func(d *driver) { d.dies = true }, models.Unavailable, "Kernel panic"},
		"killed":         {func(d *driver) { d.startErr = fmt.Errorf("start: %w: no", vm.ErrGone) }, models.Unavailable, "ended while it was being made"},
		"coded by start": {func(d *driver) { d.startErr = models.Errorf(models.Exhausted, "full") }, models.Exhausted, "full"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			broken.set(r.driver)
			_, err := r.create()
			if models.CodeOf(err) != broken.code || !strings.Contains(err.Error(), broken.text) {
				t.Errorf("create failed with %s: %v", models.CodeOf(err), err)
			}
			if left := r.left(); len(left) > 0 {
				t.Errorf("a failed create left %v", left)
			}
		})
	}
}

func TestUnknownTemplateAndImpossibleSize(t *testing.T) {
	r := newRig(t)
	size := models.Size{VCPUs: 1, MemoryMiB: 128}
	_, err := r.agent.Create(t.Context(), Request{ID: id.NewSandbox(), Template: "../etc", Size: size})
	if models.CodeOf(err) != models.NotFound && models.CodeOf(err) != models.Invalid {
		t.Errorf("a template outside the folder: %v", err)
	}
	_, err = r.agent.Create(t.Context(), Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1}})
	if models.CodeOf(err) != models.Invalid {
		t.Errorf("no memory: %v", err)
	}
	_, err = r.agent.Create(t.Context(), Request{ID: "../../x", Template: "tiny", Size: size})
	if models.CodeOf(err) != models.Invalid {
		t.Errorf("an id that is a path: %v", err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("refused creates left %v", left)
	}
}

func TestRepeatedCreateAndDestroy(t *testing.T) {
	r := newRig(t)
	req := Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128}}
	var wg sync.WaitGroup
	for range 8 { // at once: one makes it, the others get the same
		wg.Go(func() {
			if s, err := r.agent.Create(t.Context(), req); err != nil || s.State != Running || s.Size.DiskMiB != 1 {
				t.Errorf("create: %+v, %v", s, err)
			}
		})
	}
	wg.Wait()
	if n := len(r.driver.running()); n != 1 {
		t.Errorf("%d VMs run for one sandbox", n)
	}
	for range 8 {
		wg.Go(func() {
			if _, err := r.agent.Destroy(t.Context(), req.ID, 0); err != nil {
				t.Errorf("destroy: %v", err)
			}
		})
	}
	wg.Wait()
	if existed, err := r.agent.Destroy(t.Context(), req.ID, 0); existed || err != nil {
		t.Errorf("destroying what is gone: %v, %v", existed, err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}

// TestDestroyBeatsCreate: a destroy during a create ends it at once, and nothing is left.
func TestDestroyBeatsCreate(t *testing.T) {
	r := newRig(t)
	r.driver.hold = make(chan struct{})
	sb := id.NewSandbox()
	created := make(chan error, 1)
	go func() {
		_, err := r.agent.Create(context.Background(), Request{ID: sb, Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128}})
		created <- err
	}()
	r.eventually("the VM boots", func() bool { return len(r.driver.running()) == 1 })
	if _, err := r.agent.Destroy(t.Context(), sb, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-created; models.CodeOf(err) != models.Conflict {
		t.Errorf("the create ended with %v", err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}

// TestCreateOutlivesItsCaller: the caller's death does not waste the create.
func TestCreateOutlivesItsCaller(t *testing.T) {
	r := newRig(t)
	r.driver.hold = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	created := make(chan error, 1)
	go func() {
		_, err := r.agent.Create(ctx, Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128}})
		created <- err
	}()
	r.eventually("the VM boots", func() bool { return len(r.driver.running()) == 1 })
	cancel()
	close(r.driver.hold)
	if err := <-created; err != nil {
		t.Errorf("the create ended with %v", err)
	}
	if all := r.agent.Sandboxes(); len(all) != 1 || all[0].State != Running {
		t.Errorf("the host holds %+v", all)
	}
}

// TestRestartAdoptsWhatRuns: the agent's end ends nothing, and the next one goes on.
func TestRestartAdoptsWhatRuns(t *testing.T) {
	r := newRig(t)
	keeper, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	gone, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.close()
	for _, m := range r.driver.running() {
		if strings.Contains(m.saved.Dir, string(gone.ID)) {
			m.end(vm.Exit{})
		}
	}
	half := filepath.Join(r.dir, "sandboxes", "sb-00000001") // killed before its first record
	torn := filepath.Join(r.dir, "sandboxes", "sb-00000002")
	if err := errors.Join(os.Mkdir(half, 0o700), os.Mkdir(torn, 0o700), os.WriteFile(recordPath(torn), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}

	r.open()
	if s, err := r.agent.Sandbox(keeper.ID); err != nil || s.State != Running || s.Guest != keeper.Guest {
		t.Errorf("the sandbox that ran is now %+v, %v", s, err)
	}
	if _, err := r.agent.Guest(keeper.ID); err != nil {
		t.Errorf("it cannot be used: %v", err)
	}
	if s, err := r.agent.Sandbox(gone.ID); err != nil || s.State != Failed || s.Reason == "" {
		t.Errorf("the sandbox that died meanwhile is now %+v, %v", s, err)
	}
	if _, err := r.agent.Guest(gone.ID); models.CodeOf(err) != models.Precondition {
		t.Errorf("using it gives %v", err)
	}
	for _, s := range []id.Sandbox{keeper.ID, gone.ID} {
		if _, err := r.agent.Destroy(t.Context(), s, 0); err != nil {
			t.Error(err)
		}
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}

// TestCrashAtAnyRecord: whatever record an agent dies with, its successor adopts or removes all of it.
func TestCrashAtAnyRecord(t *testing.T) {
	for _, state := range []State{Starting, Stopping} {
		r := newRig(t)
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		r.close()
		dir := filepath.Join(r.dir, "sandboxes", string(s.ID))
		rec, ok, err := readRecord(dir)
		if err != nil || !ok {
			t.Fatal(err)
		}
		rec.State = state
		if err := rec.write(dir); err != nil {
			t.Fatal(err)
		}
		for _, m := range r.driver.running() { // stand-ins are not found by their environment
			m.end(vm.Exit{})
		}
		r.open()
		if left := r.left(); len(left) > 0 {
			t.Errorf("after a crash while %s there is left %v", state, left)
		}
	}
}

func TestVMThatDiesIsReported(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	all, changes, stop := r.agent.Watch()
	defer stop()
	if len(all) != 1 || all[0].ID != s.ID {
		t.Errorf("the watch begins with %+v", all)
	}
	r.driver.running()[0].end(vm.Exit{Reason: "killed by signal 9"})
	got := <-changes
	if got.ID != s.ID || got.State != Failed || !strings.Contains(got.Reason, "signal 9") {
		t.Errorf("the watch says %+v", got)
	}
	if _, err := r.agent.Destroy(t.Context(), s.ID, 0); err != nil {
		t.Error(err)
	}
	if got := <-changes; got.State != Stopping {
		t.Errorf("then it says %+v", got)
	}
	if got := <-changes; got.State != Gone {
		t.Errorf("at last it says %+v", got)
	}
}

// TestSlowWatcherIsCutOff: a watcher that does not read holds up nobody, and knows that it missed something.
func TestSlowWatcherIsCutOff(t *testing.T) {
	h := newHub()
	w := h.subscribe()
	for range backlog + 1 {
		h.publish(Sandbox{})
	}
	for range backlog {
		if _, open := <-w; !open {
			t.Fatal("changes within the backlog were lost")
		}
	}
	if _, open := <-w; open {
		t.Error("a watcher that fell behind was not cut off")
	}
	h.unsubscribe(w) // after it was cut off: no harm
}

func TestOneAgentAFolder(t *testing.T) {
	r := newRig(t)
	_, err := Open(t.Context(), Config{Dir: r.dir, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "another host agent") {
		t.Errorf("a second agent in the same folder: %v", err)
	}
}
