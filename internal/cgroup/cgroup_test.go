package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// fake makes a folder that looks like a hierarchy, as far as Open and Make look at it: an ordinary folder keeps what was last written.
func fake(t *testing.T, controllers string, folders ...string) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(controllers+"\n"), 0o600))
	for _, dir := range append([]string{"."}, folders...) {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o700))
		for _, file := range []string{"cgroup.subtree_control", "cpu.max", "cpu.weight", "memory.max", "memory.oom.group", "pids.max", "cgroup.events"} {
			must(t, os.WriteFile(filepath.Join(root, dir, file), nil, 0o600))
		}
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return string(text)
}

func TestFindMount(t *testing.T) {
	for text, want := range map[string]string{
		"25 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n":                                                        "/sys/fs/cgroup",
		"1 2 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n32 24 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n": "/sys/fs/cgroup/unified",
		"1 2 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n":                                                                                "",
		"1 2 0:3 / /mnt rw - ext4 /dev/cgroup2 rw\n":                                                                                              "",
		"": "",
	} {
		if got := findMount(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestOpenSwitchesControllersOn(t *testing.T) {
	root := fake(t, "cpuset cpu io memory pids", "a", "a/b")
	tree, err := OpenAt(root, "a/b")
	must(t, err)
	if !tree.IO() || tree.Dir() != filepath.Join(root, "a/b") {
		t.Errorf("tree %+v", tree)
	}
	for _, dir := range []string{"", "a", "a/b"} {
		if got := read(t, root, dir, "cgroup.subtree_control"); !strings.Contains(got, "+io") { // the last that was written
			t.Errorf("in %q: %q", dir, got)
		}
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	if _, err := OpenAt(fake(t, "cpuset hugetlb"), "a"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "controller cpu") {
		t.Errorf("without controllers: %v", err)
	}
	if _, err := OpenAt(fake(t, "cpu memory pids"), "a"); !errors.Is(err, ErrUnavailable) { // the folder a has no files
		t.Errorf("where controllers cannot be switched on: %v", err)
	}
	for _, parent := range []string{"../a", "/a", ""} {
		if _, err := OpenAt(fake(t, "cpu memory pids"), parent); err == nil {
			t.Errorf("the path %q was taken", parent)
		}
	}
}

func TestMakeSetsLimits(t *testing.T) {
	root := fake(t, "cpu memory pids", "p", "p/vm")
	tree, err := OpenAt(root, "p")
	must(t, err)
	group, err := tree.Make("vm", Limits{CPUs: 2.5, MemoryMiB: 300, PIDs: 40})
	must(t, err)
	got := map[string]string{}
	for _, file := range []string{"cpu.max", "cpu.weight", "memory.max", "memory.oom.group", "pids.max"} {
		got[file] = read(t, group.Dir, file)
	}
	want := map[string]string{
		"cpu.max": "250000 100000", "cpu.weight": "250", "memory.max": "314572800", "memory.oom.group": "1", "pids.max": "40",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if group.MemoryLimitMiB() != 300 || group.OOMKilled() {
		t.Errorf("limit %d, killed %t", group.MemoryLimitMiB(), group.OOMKilled())
	}
	must(t, os.WriteFile(filepath.Join(group.Dir, "memory.events"), []byte("low 0\noom 3\noom_kill 1\n"), 0o600))
	if !group.OOMKilled() {
		t.Error("a killed process was not noticed")
	}
}

func TestMakeRefusesAnOccupiedGroup(t *testing.T) {
	root := fake(t, "cpu memory pids", "p", "p/vm")
	tree, err := OpenAt(root, "p")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "p/vm/cgroup.events"), []byte("populated 1\nfrozen 0\n"), 0o600))
	if _, err := tree.Make("vm", Limits{CPUs: 1, MemoryMiB: 1, PIDs: 1}); !errors.Is(err, ErrOccupied) {
		t.Errorf("error %v", err)
	}
}

// TestMakeLeavesNothingAfterAnError: the new folder of a fake hierarchy has no files to write to.
func TestMakeLeavesNothingAfterAnError(t *testing.T) {
	root := fake(t, "cpu memory pids", "p")
	tree, err := OpenAt(root, "p")
	must(t, err)
	if _, err := tree.Make("vm", Limits{CPUs: 1, MemoryMiB: 1, PIDs: 1}); err == nil {
		t.Error("limits that cannot be set were taken for set")
	}
	if names, err := tree.Names(); err != nil || len(names) > 0 {
		t.Errorf("groups %v are left (%v)", names, err)
	}
}

// TestRemove kills what is in a group of the real hierarchy, which needs no controllers.
func TestRemove(t *testing.T) {
	testlane.NeedRoot(t)
	root := findMount(read(t, "/proc/self/mountinfo"))
	if root == "" {
		testlane.Missing(t, "cgroup v2 is not mounted")
	}
	dir, err := os.MkdirTemp(root, "wrenn-test")
	must(t, err)
	group := Group{dir}
	t.Cleanup(func() { must(t, group.Remove(t.Context())) })
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	cmd := exec.Command("/bin/sh", "-c", "sleep 600 & sleep 600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	must(t, cmd.Start())
	for deadline := time.Now().Add(time.Minute); len(strings.Fields(read(t, dir, "cgroup.procs"))) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the processes are not in the group")
		}
	}
	must(t, group.Remove(t.Context()))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process in the group: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the group is still there: %v", err)
	}
	must(t, group.Remove(t.Context()))
}
