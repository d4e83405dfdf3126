package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

const keptName id.Snapshot = "snap-0123abcd"

// from creates a sandbox from a snapshot.
func (r *rig) from(name id.Snapshot) (Sandbox, error) {
	return r.agent.Create(r.t.Context(), Request{
		ID: id.NewSandbox(), Template: "gone", Size: models.Size{VCPUs: 1, MemoryMiB: 128, DiskMiB: 1}, Snapshot: name, Network: models.DefaultNetwork(),
	})
}

// TestKeep: a snapshot is what its sandbox was, running or paused, is made once, and outlives it and the agent; what is made from it has that, and nothing that was the sandbox's own.
func TestKeep(t *testing.T) {
	for _, asleep := range []bool{false, true} {
		r := newRig(t)
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		r.mark(s.ID, "then")
		state := Running
		if asleep {
			r.pause(s.ID)
			state = Paused
		}
		token := r.agent.mustFind(s.ID).token()
		kept, err := r.agent.Keep(t.Context(), s.ID, keptName)
		if err != nil || kept.Sandbox != s.ID || kept.CreatedAt.IsZero() {
			t.Fatalf("of one that is %s: %+v, %v", state, kept, err)
		}
		if again, err := r.agent.Keep(t.Context(), s.ID, keptName); err != nil || !again.CreatedAt.Equal(kept.CreatedAt) {
			t.Errorf("repeated: %+v, %v", again, err)
		}
		r.goes(s.ID, state)
		r.undone()
		if stored, err := r.agent.named.store.Snapshot(string(keptName)); err != nil || stored.Kind != snapshot.Named || stored.Token != token {
			t.Errorf("it is stored as %+v, %v", stored.Manifest, err)
		} else if _, sealed, err := stored.Integrity(); !sealed || err != nil {
			t.Errorf("it has no checksums: %v", err)
		}
		if !asleep {
			r.mark(s.ID, "later")
		}
		if _, err := r.agent.Destroy(t.Context(), s.ID, 0); err != nil {
			t.Fatal(err)
		}
		r.close()
		r.open()
		var made []Sandbox
		r.driver.resumes = make(chan []byte, 2)
		for range 2 {
			sb, err := r.from(keptName)
			if err != nil || sb.Resumed == nil || !sb.took("resume_guest") {
				t.Fatalf("create: %+v, %v", sb, err)
			}
			r.marked(sb.ID, "then")
			made = append(made, sb)
		}
		r.ownSelves(made)
		r.driver.resumes = nil
		if err := r.agent.Discard(t.Context(), keptName); err != nil {
			t.Fatal(err)
		}
		if _, err := r.agent.Pause(t.Context(), made[0].ID); err != nil {
			t.Fatal(err)
		}
		if _, err := r.agent.Resume(t.Context(), made[0].ID); err != nil {
			t.Fatal(err)
		}
		r.marked(made[0].ID, "then")
		if all, err := r.agent.Snapshots(); err != nil || len(all) > 0 {
			t.Errorf("there are %+v, %v", all, err)
		}
	}
}

// TestKeepThatFails leaves no snapshot, and the sandbox as it was.
func TestKeepThatFails(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.driver.snapshotErr = unix.ENOSPC
	if _, err := r.agent.Keep(t.Context(), s.ID, keptName); models.CodeOf(err) != models.Exhausted {
		t.Errorf("full disk: %v", err)
	}
	r.driver.snapshotErr = nil
	r.is(s.ID, Running)
	r.undone()
	for name, c := range map[string]struct {
		sb   id.Sandbox
		name id.Snapshot
		code models.Code
	}{
		"no name":         {s.ID, "../x", models.Invalid},
		"unknown sandbox": {"sb-00000000", keptName, models.NotFound},
	} {
		if _, err := r.agent.Keep(t.Context(), c.sb, c.name); models.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(r.dir, "snapshots")); err != nil || len(left) > 0 {
		t.Errorf("there is left %v, %v", left, err)
	}
	if _, err := r.agent.Keep(t.Context(), s.ID, keptName); err != nil {
		t.Fatal(err)
	}
	other := r.fork(s.ID, 1)[0]
	if _, err := r.agent.Keep(t.Context(), other.ID, keptName); models.CodeOf(err) != models.Conflict {
		t.Errorf("another one's name: %v", err)
	}
}

// TestBadSnapshots make no sandbox: the error says why, and nothing is left.
func TestBadSnapshots(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err == nil {
		_, err = r.agent.Keep(t.Context(), s.ID, keptName)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.dir, "snapshots", string(keptName))
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	edit := func(from, to string) error {
		return os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(strings.Replace(string(manifest), from, to, 1)), 0o600)
	}
	before := len(r.left())
	for name, c := range map[string]struct {
		set, unset func() error
		code       models.Code
		text       string
	}{
		"another kind":   {func() error { return edit(`"named"`, `"golden"`) }, nil, models.Precondition, "golden"},
		"another's":      {func() error { return edit(string(keptName), "snap-00000000") }, nil, models.Precondition, "damaged: manifest.json"},
		"another VMM's":  {func() error { r.driver.version = "newer"; return nil }, func() error { r.driver.version = ""; return nil }, models.Precondition, "version"},
		"another size's": {func() error { return edit(`"memory_mib": 128`, `"memory_mib": 256`) }, nil, models.Precondition, "memory_mib"},
		"torn manifest":  {func() error { return os.Truncate(filepath.Join(dir, "manifest.json"), 20) }, nil, models.Precondition, "damaged: manifest.json"},
		"cut off": {
			func() error { return os.Truncate(filepath.Join(dir, "rootfs"), 7) }, func() error { return os.Truncate(filepath.Join(dir, "rootfs"), 1<<20) },
			models.Precondition, "damaged: rootfs",
		},
		"certificate": {
			func() error { r.driver.failing = "randomness"; return nil }, func() error { r.driver.failing = ""; return nil },
			models.Unavailable, "randomness: no",
		},
	} {
		if err := c.set(); err != nil {
			t.Fatal(err)
		}
		if sb, err := r.from(keptName); models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %+v, %v", name, sb, err)
		}
		if left := r.left(); len(left) != before {
			t.Errorf("%s: there is left %v", name, left)
		}
		err := edit("", "")
		if c.unset != nil {
			err = errors.Join(err, c.unset())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.from("snap-ffffffff"); models.CodeOf(err) != models.NotFound {
		t.Errorf("none: %v", err)
	}
	if _, err := r.from(keptName); err != nil {
		t.Errorf("as it was: %v", err)
	}
}

// TestAgentKilledDuringKeep: the sandbox goes on under the next agent, and there is no snapshot.
func TestAgentKilledDuringKeep(t *testing.T) {
	r := newRig(t)
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.close()
	r.agent.mustFind(s.ID).vm.(*machine).frozen.Store(true)
	err = errors.Join(
		r.agent.intend(string(keptName), intent{Sandbox: s.ID}),
		os.MkdirAll(filepath.Join(r.dir, "snapshots", "."+string(keptName)+".1.wrenn-tmp"), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	r.open()
	r.is(s.ID, Running)
	r.undone()
	if left, err := os.ReadDir(filepath.Join(r.dir, "snapshots")); err != nil || len(left) > 0 {
		t.Errorf("there is left %v, %v", left, err)
	}
}
