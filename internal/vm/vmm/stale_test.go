package vmm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
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
	if err := KillStale(t.Context(), Mark{Dir: dir}); err != nil {
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
	if err := KillStale(t.Context(), Mark{Dir: dir}); err != nil {
		t.Errorf("with nothing to kill: %v", err)
	}
}

// TestKillStaleSparesItsCaller holds that an agent that was itself started with the variable does not kill itself.
func TestKillStaleSparesItsCaller(t *testing.T) {
	if dir := os.Getenv(DirEnv); dir != "" {
		if err := KillStale(t.Context(), Mark{Dir: dir}); err != nil {
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
	pids, err := Find(Mark{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// owner is the user of a VM of these tests, and of one of another agent.
const owner = 4_100_001

// jailed starts a process with the disk dir/disk among its mounts, as VMMs have theirs.
func jailed(t *testing.T, dir string, user uint32, program string, args, env []string) *Process {
	t.Helper()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return spawn(t, Command{Path: program, Args: args, Env: env, Dir: dir, Jail: &jail.Confinement{
		Owner: user, Binds: []jail.Bind{{From: disk, To: filepath.Join(dir, "jail"), Writable: true}},
	}})
}

// TestFindInJail holds that a VMM with a jail is found by what it sees, whatever it says of itself, and that one of another agent, which may have the same
// user, is not.
func TestFindInJail(t *testing.T) {
	testlane.NeedRoot(t)
	dir, other := filepath.Join(t.TempDir(), "a folder"), t.TempDir()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := Mark{Dir: dir, Disk: filepath.Join(dir, "disk"), Owner: owner}
	liar := jailed(t, dir, owner, "/bin/sleep", []string{"600"}, []string{DirEnv + "=" + other})
	jailed(t, other, owner, "/bin/sleep", []string{"600"}, []string{DirEnv + "=" + dir})
	elsewhere, err := placeOf(m.Disk)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.device = "0:0"
	if liveTask(liar.Identity().PID).hasMounted(elsewhere) {
		t.Error("a file of the same path on another file system is taken for the disk")
	}
	for range 2 {
		if found, err := Find(m); err != nil || !slices.Equal(found, []int{liar.Identity().PID}) {
			t.Errorf("found %v, %v, want %d", found, err, liar.Identity().PID)
		}
		if err := os.Remove(m.Disk); err != nil && !os.IsNotExist(err) { // as by an operator who tidies up
			t.Error(err)
		}
	}
	if err := KillStale(t.Context(), m); err != nil {
		t.Error(err)
	}
	if s := wait(t, liar); s.Signal != int(syscall.SIGKILL) {
		t.Errorf("status %+v", s)
	}
	if found, err := Find(Mark{Dir: "/nowhere", Disk: "/nowhere/disk", Owner: owner}); err != nil || len(found) > 0 {
		t.Errorf("of a VM without a folder %v, %v", found, err)
	}
}

// TestFindBehindNamespaces holds that a VMM does not hide by mounts of its own, for which it needs a user namespace.
func TestFindBehindNamespaces(t *testing.T) {
	testlane.NeedRoot(t)
	cmd := exec.Command("/bin/sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: owner, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: owner, Size: 1}},
		Credential: &syscall.Credential{},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	dir := t.TempDir()
	for user, want := range map[uint32][]int{owner: {cmd.Process.Pid}, owner + 1: nil} {
		if found, err := Find(Mark{Dir: dir, Disk: filepath.Join(dir, "disk"), Owner: user}); err != nil || !slices.Equal(found, want) {
			t.Errorf("of user %d: %v, %v, want %v", user, found, err, want)
		}
	}
}

// TestFindWithoutFirstThread holds that a VMM does not hide by ending the thread that has its process's number.
func TestFindWithoutFirstThread(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	p := jailed(t, dir, 0, os.Args[0], nil, []string{headlessEnv + "=1"})
	pid := p.Identity().PID
	await(t, "its first thread has ended", func() bool { return readTask(fmt.Sprintf("/proc/%d", pid)).state == "Z" })
	if found, err := Find(Mark{Dir: dir, Disk: filepath.Join(dir, "disk"), Owner: owner}); err != nil || !slices.Equal(found, []int{pid}) {
		t.Errorf("found %v, %v, want %d", found, err, pid)
	}
}

// headlessEnv makes this program end its first thread, and sleep in another one.
const headlessEnv = "WRENN_TEST_HEADLESS"

func TestMain(m *testing.M) {
	if os.Getenv(headlessEnv) != "" {
		go func() { time.Sleep(time.Hour); os.Exit(1) }()
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // main runs on the first thread
	}
	os.Exit(m.Run())
}

// TestMarkOfAnotherUser holds that what other users of the machine write into their environment harms nobody.
func TestMarkOfAnotherUser(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	cmd := exec.Command("/bin/sleep", "600")
	cmd.Env = []string{DirEnv + "=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if found := find(t, dir); len(found) > 0 {
		t.Errorf("found %v", found)
	}
	if (task{users: []string{"1000", "0", "0", "0"}}).runsAs(0) {
		t.Error("what a set-user-ID program was started with is believed")
	}
}
