package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// mark writes to the disk of a sandbox that runs, as its guest would.
func (r *rig) mark(sb id.Sandbox, text string) {
	r.t.Helper()
	f, err := os.OpenFile(r.agent.diskPath(sb), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// marked fails the test unless the disk of a sandbox that runs has text in it.
func (r *rig) marked(sb id.Sandbox, text string) {
	r.t.Helper()
	disk, err := os.ReadFile(r.agent.diskPath(sb))
	if err != nil || !strings.HasPrefix(string(disk), text+"\x00") {
		r.t.Errorf("the disk begins with %q, want %q, %v", disk[:min(len(disk), 8)], text, err)
	}
}

// is fails the test unless the sandbox is in a state, with the VMs that a sandbox in it has, and its network.
func (r *rig) is(sb id.Sandbox, want State) Sandbox {
	r.t.Helper()
	now, err := r.agent.Sandbox(sb)
	running := r.driver.running()
	if err != nil || now.State != want {
		r.t.Fatalf("the sandbox is %+v, %v, want %s", now, err, want)
	}
	if want == Running && (len(running) != 1 || running[0].frozen.Load()) {
		r.t.Errorf("of a sandbox that runs there are the VMs %+v", running)
	}
	if want == Paused && len(running) != 0 {
		r.t.Errorf("of a sandbox that is paused there are the VMs %+v", running)
	}
	if left := r.left(); !slices.Contains(left, "device tap-"+string(sb)) {
		r.t.Errorf("a sandbox that is %s has no network: %v", want, left)
	}
	return now
}

func (r *rig) pause(sb id.Sandbox) {
	r.t.Helper()
	if got, err := r.agent.Pause(r.t.Context(), sb); err != nil || got.State != Paused {
		r.t.Fatalf("pause: %+v, %v", got, err)
	}
	r.is(sb, Paused)
}

func (r *rig) resume(sb id.Sandbox) Sandbox {
	r.t.Helper()
	if got, err := r.agent.Resume(r.t.Context(), sb); err != nil || got.State != Running {
		r.t.Fatalf("resume: %+v, %v", got, err)
	}
	return r.is(sb, Running)
}

// TestPauseAndResume: again and again, with what the guest wrote; repeated, and by many at once, it is done once.
func TestPauseAndResume(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	token := r.agent.all()[0].token()
	for _, text := range []string{"one", "two", "three"} {
		r.mark(s.ID, text)
		r.pause(s.ID)
		r.pause(s.ID)
		if _, err := os.Stat(r.agent.diskPath(s.ID)); !os.IsNotExist(err) {
			t.Errorf("a paused sandbox has two disks: %v", err)
		}
		if _, err := r.agent.Guest(s.ID); models.CodeOf(err) != models.Precondition {
			t.Errorf("the guest of a paused sandbox: %v", err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = r.agent.Resume(t.Context(), s.ID) })
		}
		wg.Wait()
		now := r.resume(s.ID)
		r.marked(s.ID, text)
		if now.Resumed == nil || len(now.Resumed.Steps) != 8 || now.Guest != s.Guest {
			t.Errorf("resumed as %+v, with the certificate %+v", now, now.Resumed)
		}
		if last := r.agent.all()[0].token(); last == token {
			t.Error("the token is the one of before")
		}
	}
	if state := r.driver.running()[0].state; state != "+++" {
		t.Errorf("it went through the states %q", state)
	}
	if kept, err := os.ReadDir(filepath.Join(r.agent.dir(s.ID), "snapshots")); err != nil || len(kept) != 1 {
		t.Errorf("of three pauses there are the snapshots %v, %v", kept, err)
	}
	r.pause(s.ID)
	if existed, err := r.agent.Destroy(t.Context(), s.ID, 0); !existed || err != nil {
		t.Errorf("destroy of a paused sandbox: %v, %v", existed, err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}

// TestPauseThatFails leaves a sandbox that runs and can be paused; where its VM is gone, one that has failed.
func TestPauseThatFails(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		code models.Code
		text string
	}{
		"disk full": {unix.ENOSPC, models.Exhausted, "disk is full"},
		"other":     {errors.New("no"), models.Internal, "could not be paused"},
	} {
		r.driver.snapshotErr, r.driver.inits = c.err, make(chan []byte, 8)
		if _, err := r.agent.Pause(t.Context(), s.ID); models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		r.is(s.ID, Running)
		r.toldTheTime()
	}
	r.driver.snapshotErr, r.driver.killErr = nil, errors.New("no")
	if _, err := r.agent.Pause(t.Context(), s.ID); models.CodeOf(err) != models.Internal {
		t.Errorf("the VM cannot be ended: %v", err)
	}
	r.is(s.ID, Running)
	if left, err := os.ReadDir(filepath.Join(r.agent.dir(s.ID), "snapshots")); err != nil || len(left) > 0 {
		t.Errorf("beside a sandbox that runs on there are the snapshots %v, %v", left, err)
	}
	r.driver.killErr = nil
	r.mark(s.ID, "still")
	r.pause(s.ID)
	r.resume(s.ID)
	r.marked(s.ID, "still")

	r.driver.running()[0].saved.Machine.Version = "older"
	if _, err := r.agent.Pause(t.Context(), s.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "version") {
		t.Errorf("pause of what could not be resumed: %v", err)
	}
	r.is(s.ID, Running)
	r.driver.running()[0].saved.Machine.Version, r.driver.noRestore = "", "it is too old"
	if _, err := r.agent.Pause(t.Context(), s.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "too old") {
		t.Errorf("pause under a VMM that cannot restore: %v", err)
	}
	r.is(s.ID, Running)
	r.driver.noRestore = ""
	r.driver.snapshots = func() { r.driver.running()[0].end(vm.Exit{Reason: "killed by signal 9"}) }
	if _, err := r.agent.Pause(t.Context(), s.ID); models.CodeOf(err) != models.Unavailable {
		t.Errorf("the VM died: %v", err)
	}
	if now, err := r.agent.Sandbox(s.ID); err != nil || now.State != Failed || !strings.Contains(now.Reason, "signal 9") {
		t.Errorf("afterwards it is %+v, %v", now, err)
	}
}

// TestPauseOfAVMThatHangs: where its VM neither ends nor answers, the snapshot, which may be all that there is, is kept.
func TestPauseOfAVMThatHangs(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.driver.killErr, r.driver.pauseErr = errors.New("no"), errors.New("no")
	if _, err := r.agent.Pause(t.Context(), s.ID); err == nil {
		t.Error("it has been paused")
	}
	kept, listErr := os.ReadDir(filepath.Join(r.agent.dir(s.ID), "snapshots"))
	if now, err := r.agent.Sandbox(s.ID); err != nil || now.State != Failed || listErr != nil || len(kept) != 1 {
		t.Errorf("it is %+v, %v, with the snapshots %v, %v", now, err, kept, listErr)
	}
	r.driver.killErr = nil
}

// TestResumeThatFails leaves a sandbox that is paused as it was, and can be resumed.
func TestResumeThatFails(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.mark(s.ID, "kept")
	r.pause(s.ID)
	d := r.driver
	state := filepath.Join(r.agent.dir(s.ID), "snapshots", string(s.ID)+"-pause-1", "vmstate")
	for name, c := range map[string]struct {
		set, unset func()
		code       models.Code
		text       string
	}{
		"certificate": {func() { d.failing = "randomness" }, func() { d.failing = "" }, models.Unavailable, "randomness: no"},
		"restore":     {func() { d.restoreErr = errors.New("no") }, func() { d.restoreErr = nil }, models.Internal, "could not be resumed"},
		"killed":      {func() { d.restoreErr = fmt.Errorf("restore: %w: no", vm.ErrGone) }, func() { d.restoreErr = nil }, models.Unavailable, "its VM ended"},
		"start":       {func() { d.startErr = unix.ENOSPC }, func() { d.startErr = nil }, models.Exhausted, "disk is full"},
		"dies":        {func() { d.dies = true }, func() { d.dies = false }, models.Unavailable, "its VM ended"},
		"damaged": {
			func() { _ = os.WriteFile(state, []byte("-"), 0o600) }, func() { _ = os.WriteFile(state, []byte("+"), 0o600) },
			models.Precondition, "damaged",
		},
	} {
		c.set()
		if _, err := r.agent.Resume(t.Context(), s.ID); models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		if now := r.is(s.ID, Paused); now.Reason == "" || now.Resumed != nil {
			t.Errorf("%s: it says %+v", name, now)
		}
		c.unset()
	}
	if now := r.resume(s.ID); now.Reason != "" {
		t.Errorf("resumed, its reason is %q", now.Reason)
	}
	r.marked(s.ID, "kept")
}

// TestDestroyBeatsPauseAndResume: it ends what is under way, and nothing is left.
func TestDestroyBeatsPauseAndResume(t *testing.T) {
	for _, during := range []State{Pausing, Resuming} {
		r := newRig(t)
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		if during == Resuming {
			r.pause(s.ID)
		}
		reached, destroyed, ended := make(chan struct{}), make(chan error, 1), make(chan error, 1)
		hold := func() { close(reached); <-r.agent.all()[0].ctx.Done() }
		go func() {
			<-reached
			_, err := r.agent.Destroy(t.Context(), s.ID, 0)
			destroyed <- err
		}()
		if during == Pausing {
			r.driver.snapshots = hold
			_, err = r.agent.Pause(t.Context(), s.ID)
		} else {
			r.driver.restores = hold
			_, err = r.agent.Resume(t.Context(), s.ID)
		}
		ended <- err
		if err := <-destroyed; err != nil {
			t.Errorf("%s: destroy: %v", during, err)
		}
		if err := <-ended; models.CodeOf(err) != models.Conflict {
			t.Errorf("%s: what was under way ended with %v", during, err)
		}
		if left := r.left(); len(left) > 0 {
			t.Errorf("%s: there is left %v", during, left)
		}
	}
}

// TestAgentKilledWhilePaused: what is paused stays so under the next agent, and can be resumed or destroyed.
func TestAgentKilledWhilePaused(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.mark(s.ID, "kept")
	r.pause(s.ID)
	r.close()
	r.open()
	r.is(s.ID, Paused)
	changed := models.DefaultNetwork()
	changed.Generation, changed.Internet = 2, false
	if _, err := r.agent.SetNetwork(t.Context(), s.ID, changed); err != nil {
		t.Errorf("a change of policy while it is paused: %v", err)
	}
	if now := r.resume(s.ID); now.Network.Generation != 2 || now.Network.Internet {
		t.Errorf("it woke under the policy %+v", now.Network)
	}
	r.marked(s.ID, "kept")
}

// TestAgentKilledDuringChange ends the agent with each record of a pause, and with what a resume has begun with, with its VM and without. The next one finishes or undoes it.
func TestAgentKilledDuringChange(t *testing.T) {
	const committed, vmGone = true, true
	for _, c := range []struct {
		name              string
		state             State
		committed, vmGone bool
		want              State
	}{
		{"pausing, before the snapshot", Pausing, !committed, !vmGone, Running},
		{"pausing, before the snapshot, and the VM ended", Pausing, !committed, vmGone, Failed},
		{"pausing, after the snapshot and the VM", Pausing, committed, vmGone, Paused},
		{"resuming", Resuming, committed, vmGone, Paused},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			s, err := r.create()
			if err != nil {
				t.Fatal(err)
			}
			r.mark(s.ID, "kept")
			if c.committed {
				r.pause(s.ID)
			}
			r.close()
			r.crashedIn(s.ID, c.state)
			for _, m := range r.driver.running() {
				m.frozen.Store(true)
				if c.vmGone {
					m.end(vm.Exit{})
				}
			}
			r.driver.inits = make(chan []byte, 8)
			r.open()
			if c.want == Failed {
				if now, err := r.agent.Sandbox(s.ID); err != nil || now.State != Failed || now.Reason == "" {
					t.Errorf("it is %+v, %v", now, err)
				}
				return
			}
			now := r.is(s.ID, c.want)
			if undone := strings.Contains(now.Reason, "while it was being resumed"); undone != (c.state == Resuming) {
				t.Errorf("it says %q", now.Reason)
			}
			if c.want == Paused {
				if _, err := os.Lstat(r.agent.diskPath(s.ID)); err == nil {
					t.Error("it sleeps with a disk")
				}
				r.resume(s.ID)
			} else {
				r.toldTheTime()
			}
			r.marked(s.ID, "kept")
			r.pause(s.ID)
		})
	}
}

// toldTheTime waits until a guest that stood still has its clock set.
func (r *rig) toldTheTime() {
	r.t.Helper()
	select {
	case told := <-r.driver.inits:
		if !strings.Contains(string(told), `"timestamp"`) {
			r.t.Errorf("the guest is told %s", told)
		}
	case <-time.After(time.Minute):
		r.t.Error("the clock of a guest that stood still is not set")
	}
}

// crashedIn makes the folder of a sandbox one that an agent died with.
func (r *rig) crashedIn(sb id.Sandbox, state State) {
	r.t.Helper()
	dir := r.agent.dir(sb)
	rec, ok, err := readRecord(dir)
	if err != nil || !ok {
		r.t.Fatal(err)
	}
	if state == Pausing {
		rec.State = Pausing
		rec.Staged, rec.Snapshot = string(sb)+"-pause-1", ""
		err = errors.Join(os.MkdirAll(filepath.Join(dir, "snapshots", ".x.wrenn-tmp"), 0o700), os.WriteFile(filepath.Join(dir, "snapshots", ".x.wrenn-tmp", "memory"), nil, 0o600))
	} else {
		err = os.WriteFile(r.agent.diskPath(sb), []byte("half"), 0o600)
	}
	if err := errors.Join(err, rec.write(dir)); err != nil {
		r.t.Fatal(err)
	}
}
