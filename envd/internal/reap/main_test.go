package reap_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
)

// A Reaper takes the status of every child of its process, so that it cannot live in a
// test process: os/exec in other tests, and the test tool itself, would lose theirs.
// Each scenario therefore runs in a process of its own, this binary started again: once
// as PID 1 of a new PID namespace, once as a subreaper.

const scenarioVariable = "WRENN_REAP_SCENARIO"

// patience bounds every wait; it is long because the machine may be busy.
const patience = 60 * time.Second

var scenarios = map[string]func() error{
	"statuses":  statuses,
	"orphans":   orphans,
	"refusals":  refusals,
	"missing":   missing,
	"signals":   signals,
	"closing":   closing,
	"groupless": groupless,
	"tree":      tree,
	"lingering": lingering,
	"ahead":     ahead,
	"tidied":    tidied,
	"untidied":  untidied,
	"draining":  draining,
	"victims":   victims,
}

func TestMain(m *testing.M) {
	name := os.Getenv(scenarioVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := scenarios[name](); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func TestReaper(t *testing.T) {
	for name := range scenarios {
		t.Run(name+"/subreaper", func(t *testing.T) {
			t.Parallel()
			run(t, name, nil)
		})
		t.Run(name+"/pid1", func(t *testing.T) {
			t.Parallel()
			testlane.NeedRoot(t)
			run(t, name, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL})
		})
	}
}

func run(t *testing.T, name string, attr *syscall.SysProcAttr) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), scenarioVariable+"="+name)
	if name == "tree" || name == "lingering" || name == "ahead" || name == "tidied" || name == "untidied" || name == "victims" {
		cmd.Env = append(cmd.Env, cgroupVariable+"="+testCgroup(t))
	}
	cmd.SysProcAttr = attr
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

const cgroupVariable = "WRENN_REAP_CGROUP"

// testCgroup makes a cgroup for the test and ends what is in it with the test.
func testCgroup(t *testing.T) string {
	testlane.NeedRoot(t)
	dir, err := os.MkdirTemp(cgroup2Mount(t), "wrenn-reap-")
	if err != nil {
		testlane.Missing(t, "a writable cgroup v2 mount: "+err.Error())
	}
	t.Cleanup(func() { removeCgroup(t, dir) })
	return dir
}

func cgroup2Mount(t *testing.T) string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	testlane.Missing(t, "no cgroup v2 mount")
	return ""
}

func removeCgroup(t *testing.T, dir string) {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		t.Error(err)
	}
	below, _ := filepath.Glob(filepath.Join(dir, "p*"))
	for _, path := range append(below, dir) {
		err := eventually(func() error {
			if err := syscall.Rmdir(path); err != nil && err != syscall.ENOENT {
				return err
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// newReaper is the scenario's Reaper; in a PID namespace /proc has to show it first.
func newReaper() (*reap.Reaper, error) {
	if os.Getpid() == 1 {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return nil, err
		}
		if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return nil, err
		}
	}
	return reap.New(reap.Options{Cgroup: os.Getenv(cgroupVariable)})
}

// eventually repeats check until it succeeds or patience runs out.
func eventually(check func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// childless says which children, zombies or not, this process still has.
func childless() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (comm) state ppid ...
		rest := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if rest[1] == strconv.Itoa(os.Getpid()) {
			return fmt.Errorf("a child is left: %s", stat)
		}
	}
	return nil
}
