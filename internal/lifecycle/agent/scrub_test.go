package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// snapshotFile is the path of a file of the snapshot that a sandbox sleeps in.
func (r *rig) snapshotFile(sb id.Sandbox, name string) string {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.agent.dir(sb), "snapshots/*", name))
	if err != nil || len(found) != 1 {
		r.t.Fatalf("snapshots with %s: %v, %v", name, found, err)
	}
	return found[0]
}

// flip changes the first byte of a file, and again changes it back.
func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	one := make([]byte, 1)
	if _, err = f.ReadAt(one, 0); err == nil {
		one[0] ^= 1
		_, err = f.WriteAt(one, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestScrub: the snapshot of a sandbox that sleeps is read again and again; where it is damaged the sandbox says so before anybody wakes it, does not wake, and does when
// it is whole again. A new agent knows all of it.
func TestScrub(t *testing.T) {
	r := newRig(t)
	r.close()
	r.scrub = 1000
	r.open()
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.mark(s.ID, "kept")
	r.pause(s.ID)
	now := func() Sandbox { return r.is(s.ID, Paused) }
	verified := func(since time.Time) func() bool {
		return func() bool { v := now(); return v.Verified.After(since) && v.Damage == "" }
	}
	r.eventually("it was found whole", verified(time.Time{}))
	r.eventually("and again", verified(now().Verified))
	disk := r.snapshotFile(s.ID, snapshot.RootfsFile)
	flip(t, disk)
	r.eventually("its damage is told", func() bool { return strings.Contains(now().Damage, "rootfs") })
	last := now().Verified
	r.close()
	r.open()
	if got := now(); got.Damage == "" || !got.Verified.Equal(last) {
		t.Errorf("a new agent says %+v", got)
	}
	if _, err := r.agent.Resume(t.Context(), s.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("resume of what is damaged: %v", err)
	}
	flip(t, disk)
	r.eventually("it is whole again", verified(last))
	if got := r.resume(s.ID); !got.Verified.IsZero() {
		t.Errorf("running it was verified at %s", got.Verified)
	}
	r.marked(s.ID, "kept")
}

// TestScrubGolden: one that is damaged is made anew before a create finds out, and the host says when each was found whole.
func TestScrubGolden(t *testing.T) {
	r := newRig(t)
	r.close()
	r.scrub, r.golden = 1000, 1<<10
	r.open()
	r.made(false)
	first := r.minted("")
	r.eventually("it was found whole again", func() bool {
		all := r.agent.GoldenSnapshots()
		return len(all) == 1 && all[0].Verified.After(first.Verified)
	})
	flip(t, filepath.Join(r.dir, "golden", first.ID, snapshot.RootfsFile))
	r.minted(first.ID)
	r.made(true)
}

// TestScrubNamed: of a snapshot that somebody asked for, the host says that it is damaged.
func TestScrubNamed(t *testing.T) {
	r := newRig(t)
	r.close()
	r.scrub = 1000
	r.open()
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := r.agent.Keep(t.Context(), s.ID, id.NewSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	damage := func() error {
		all, err := r.agent.Snapshots()
		if err != nil || len(all) != 1 || all[0].ID != kept.ID {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0].Damage
	}
	if err := damage(); err != nil {
		t.Error(err)
	}
	flip(t, filepath.Join(r.dir, "snapshots", string(kept.ID), snapshot.RootfsFile))
	r.eventually("its damage is told", func() bool { return damage() != nil })
	if err := damage(); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "rootfs") {
		t.Error(err)
	}
}
