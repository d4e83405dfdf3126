package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// testOwners is where the users of the tests' VMMs begin: nobody's, as no process runs.
const testOwners = 3_000_000

func TestVMMsHaveTheirSlotsUser(t *testing.T) {
	r := newRig(t)
	r.jails, r.owners = &Jails{}, testOwners
	r.close()
	r.open()
	for range 2 {
		s, err := r.create()
		if err != nil {
			t.Fatal(err)
		}
		rec, ok, err := readRecord(r.agent.dir(s.ID))
		if err != nil || !ok || rec.Owner != testOwners+uint32(rec.Slot) {
			t.Errorf("the record names the user %d for slot %d (%v)", rec.Owner, rec.Slot, err)
		}
		if spec := r.driver.spec(r.agent.runDir(s.ID)); spec.Jail == nil || spec.Jail.Owner != rec.Owner || spec.Jail.Cgroup != "" {
			t.Errorf("the driver was told of %+v", spec.Jail)
		}
	}
}

// TestLimitsThatCannotBeSet holds that there is no VM without its limits where the host has them.
func TestLimitsThatCannotBeSet(t *testing.T) {
	r := newRig(t)
	root := t.TempDir() // no hierarchy: new groups have no files that limits could be written to
	for file, text := range map[string]string{"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "", "vms/cgroup.subtree_control": ""} {
		path := filepath.Join(root, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := cgroup.OpenAt(root, "vms")
	if err != nil {
		t.Fatal(err)
	}
	r.jails, r.owners = &Jails{Cgroups: tree}, testOwners
	r.close()
	r.open()
	if _, err := r.create(); err == nil || models.CodeOf(err) != models.Internal {
		t.Errorf("create: %v", err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("a failed create left %v", left)
	}
	if groups, err := tree.Names(); err != nil || len(groups) > 0 {
		t.Errorf("cgroups %v are left (%v)", groups, err)
	}
}

// TestHostOOMIsTold holds that a VM which its host has no memory for is told from one that fails, whether the agent saw it or not.
func TestHostOOMIsTold(t *testing.T) {
	r := newRig(t)
	r.driver.dies, r.driver.exit = true, vm.Exit{OOM: true, Reason: "the host's memory limit of the VM was reached"}
	if _, err := r.create(); models.CodeOf(err) != models.Exhausted || !strings.Contains(err.Error(), "memory limit of the VM") {
		t.Errorf("create: %v", err)
	}
	r.driver.dies = false
	s, err := r.create()
	if err != nil {
		t.Fatal(err)
	}
	r.close()
	r.driver.running()[0].end(vm.Exit{})
	group := t.TempDir()
	for file, text := range map[string]string{"memory.events": "oom_kill 1\n", "memory.max": "314572800\n"} {
		if err := os.WriteFile(filepath.Join(group, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(r.dir, "sandboxes", string(s.ID))
	rec, _, err := readRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	rec.VM.Cgroup = group
	if err := rec.write(dir); err != nil {
		t.Fatal(err)
	}
	r.open()
	if v, err := r.agent.Sandbox(s.ID); err != nil || v.State != Failed || !strings.Contains(v.Reason, "300 MiB") {
		t.Errorf("after a restart: %+v, %v", v, err)
	}
}

// TestSnapshotsOfJailedVMs: with a jail, too, a sandbox is made from a golden snapshot, sleeps and wakes, though a jail is part of what a snapshot is bound to.
func TestSnapshotsOfJailedVMs(t *testing.T) {
	r := newRig(t)
	r.jails, r.owners, r.golden = &Jails{}, testOwners, 1<<10
	r.close()
	r.open()
	first := r.made(false)
	r.minted("")
	if _, err := r.agent.Destroy(t.Context(), first.ID, 0); err != nil {
		t.Fatal(err)
	}
	s := r.made(true)
	r.pause(s.ID)
	r.resume(s.ID)
}
