package vmm

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func TestKillStale(t *testing.T) {
	root := t.TempDir()
	dir, similar := filepath.Join(root, "vm"), filepath.Join(root, "vm2")
	for _, d := range []string{dir, similar} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stale := []*Process{
		spawn(t, shell(dir, "exec sleep 600")),
		spawn(t, shell(dir, "trap '' TERM HUP; sleep 600 & wait")), // with a child
	}
	other := spawn(t, shell(similar, "exec sleep 600"))
	await(t, "3 processes are found", func() bool { return len(find(t, dir)) == 3 })
	if err := KillStale(t.Context(), dir, 0); err != nil {
		t.Fatal(err)
	}
	if left := find(t, dir); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
	for _, p := range stale {
		if s := wait(t, p); s.Signal != int(syscall.SIGKILL) {
			t.Errorf("status of a stale process: %+v", s)
		}
	}
	if got := find(t, similar); !slices.Equal(got, []int{other.Identity().PID}) {
		t.Errorf("of the other VM %v runs, want %d", got, other.Identity().PID)
	}
	if err := KillStale(t.Context(), dir, 0); err != nil {
		t.Errorf("with nothing to kill: %v", err)
	}
}

// TestKillStaleSparesItsCaller holds that an agent that was itself started with the variable does not kill itself.
func TestKillStaleSparesItsCaller(t *testing.T) {
	if dir := os.Getenv(DirEnv); dir != "" {
		if err := KillStale(t.Context(), dir, 0); err != nil {
			t.Fatal(err)
		}
		return
	}
	again := exec.Command(os.Args[0], "-test.run=^TestKillStaleSparesItsCaller$")
	again.Env = append(os.Environ(), DirEnv+"="+t.TempDir())
	if output, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

func find(t *testing.T, dir string) []int {
	t.Helper()
	pids, err := Find(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// TestFindByUser holds that a process that says nothing of its VM is found by its user, and one of another VM is not.
func TestFindByUser(t *testing.T) {
	testlane.NeedRoot(t)
	const owner = 4_100_001
	start := func(env ...string) int {
		cmd := exec.Command("/bin/sleep", "600")
		cmd.Env = append([]string{"A=b"}, env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return cmd.Process.Pid
	}
	mute := start()
	start(DirEnv + "=/somewhere/else")
	if found, err := Find("/nowhere", owner); err != nil || !slices.Equal(found, []int{mute}) {
		t.Errorf("found %v, %v, want %d", found, err, mute)
	}
	if found, err := Find("/nowhere", owner+1); err != nil || len(found) > 0 {
		t.Errorf("another user has %v, %v", found, err)
	}
}
