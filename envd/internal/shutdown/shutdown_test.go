package shutdown

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"golang.org/x/sys/unix"
)

// The end of a guest is tried out by this binary as PID 1 of a PID namespace, where
// signals reach the namespace only and a restart ends its PID 1 by SIGHUP (reboot(2)).
// The disks are left out: a mount namespace does not keep a remount from the host.

const scenarioVariable = "WRENN_SHUTDOWN_SCENARIO"

func TestMain(m *testing.M) {
	name := os.Getenv(scenarioVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if os.Getpid() != 1 {
		fmt.Println("not in a PID namespace")
		os.Exit(1)
	}
	g := New(os.Stdout)
	g.disks = func(say func(string)) { say("disks") }
	g.Stop = func() { g.say("stop") }
	scenarios[name](g)
}

var scenarios = map[string]func(g *Guest){
	"obedient": func(g *Guest) {
		start(g, "sleep 1000 & sleep 1000 & echo up; wait")
		g.End("test")
	},
	"stubborn": func(g *Guest) {
		start(g, "trap '' TERM; echo up; while :; do sleep 1000; done")
		g.End("test")
	},
	"stopped": func(g *Guest) {
		child := start(g, "trap 'echo continued >&2; exit' TERM; echo up; kill -STOP $$")
		if err := unix.Waitid(unix.P_PID, child.PID(), nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
			panic(err)
		}
		g.End("test")
	},
	"signal": func(g *Guest) {
		go g.EndOnSignal()
		reaper, err := reap.New(reap.Options{})
		if err != nil {
			panic(err)
		}
		g.Reaper = reaper
		for { // until EndOnSignal listens: a PID 1 ignores what it does not handle
			_ = unix.Kill(1, unix.SIGPWR)
		}
	},
	"panic": func(g *Guest) {
		defer g.EndOnPanic()
		var none *Guest
		none.once.Do(func() {})
		none.Stop()
	},
}

// start runs script in a shell and waits until it has said that it is up.
func start(g *Guest, script string) *reap.Child {
	reaper, err := reap.New(reap.Options{})
	if err != nil {
		panic(err)
	}
	g.Reaper = reaper
	cmd := exec.Command("/bin/sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	cmd.Stderr = os.Stderr
	child, err := reaper.Start(cmd)
	if err != nil {
		panic(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		panic(err)
	}
	return child
}

func TestEnd(t *testing.T) {
	testlane.NeedRoot(t)
	for name, said := range map[string][]string{
		"obedient": {"envd: the guest ends: test", "envd: stop", "envd: disks"},
		"stubborn": {"envd: the guest ends: test", "envd: stop", "envd: disks"},
		"stopped":  {"envd: the guest ends: test", "\ncontinued", "envd: stop", "envd: disks"},
		"signal":   {"envd: the guest ends: signal power failure", "envd: stop", "envd: disks"},
		"panic":    {"envd: panic: ", "envd: the guest ends: panic", "envd: stop", "envd: disks"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), scenarioVariable+"="+name)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
			out, err := cmd.CombinedOutput()
			exit, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !ok || !exit.Signaled() || exit.Signal() != syscall.SIGHUP {
				t.Fatalf("ended with %v, not by a restart\n%s", err, out)
			}
			if strings.Contains(string(out), "cannot be killed") {
				t.Errorf("not all processes ended: %s", out)
			}
			rest := string(out)
			for _, text := range said {
				i := strings.Index(rest, text)
				if i < 0 {
					t.Fatalf("it did not say %q, in this order: %s", text, out)
				}
				rest = rest[i:]
			}
		})
	}
}

// Outside a guest, nothing but the process may end.
func TestEndElsewhere(t *testing.T) {
	if os.Getenv("WRENN_SHUTDOWN_ELSEWHERE") != "" {
		New(os.Stdout).End("test")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestEndElsewhere$")
	cmd.Env = append(os.Environ(), "WRENN_SHUTDOWN_ELSEWHERE=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "not PID 1") {
		t.Errorf("ended with %v\n%s", err, out)
	}
}

func TestDisks(t *testing.T) {
	const mountinfo = `1 1 254:0 / / rw,noatime - ext4 /dev/root rw
20 1 0:5 / /dev rw - devtmpfs devtmpfs rw
21 20 0:20 / /dev/shm rw - tmpfs tmpfs rw
30 1 7:0 / /mnt/a rw shared:1 - ext4 /dev/loop0 rw
31 30 0:40 / /mnt/a/with\040space rw shared:1 master:2 - fuse.sshfs host: rw
32 1 0:4 / /proc rw - proc proc rw
nonsense
33 1 0:30 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
`
	want := []string{"/var/lib/docker/overlay2/x/merged", "/mnt/a/with space", "/mnt/a"}
	if got := disks(mountinfo); !reflect.DeepEqual(got, want) {
		t.Errorf("disks %q, want %q", got, want)
	}
}
