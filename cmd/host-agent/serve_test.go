package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/fctest"
)

// beAgent makes this test's executable the host agent, so that a test can kill it.
const beAgent = "WRENN_TEST_BE_HOST_AGENT"

// TestMain is also the host agent, its Firecracker and that one's jailer.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "firecracker":
		os.Exit(fctest.Main(os.Args[1:], standInGuest))
	case "jailer":
		os.Exit(fctest.Jailer(os.Args[1:], standInGuest))
	}
	if os.Getenv(beAgent) == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestAgentOnFirecracker is the life of a sandbox with envd in a real Firecracker, through the agent's own interface:
// create, a program and a file, the same after the agent was killed and after a sleep in the object store, destroy, nothing left; and an agent that is killed in the middle of a
// create leaves nothing once it is back. scripts/test-firecracker.sh runs
// it; the e2e suite shows the same and more on QEMU.
func TestAgentOnFirecracker(t *testing.T) {
	if os.Getenv("WRENN_REQUIRE_FIRECRACKER") != "1" {
		t.Skip("skipped: scripts/test-firecracker.sh runs this with a real Firecracker")
	}
	testlane.NeedRoot(t)
	a := newProcess(t, firecracker.Name)
	a.start()
	sb := id.NewSandbox()
	if _, err := a.client.Create(t.Context(), hostclient.NewSandbox{
		ID: sb, Template: "minimal", Size: models.Size{VCPUs: 1, MemoryMiB: 256}, Env: map[string]string{"COLOUR": "blue"},
	}); err != nil {
		t.Fatal(err)
	}
	a.check(sb, "echo $COLOUR; cat /proc/1/comm; echo kept > kept", "blue\nenvd\n")
	a.kill()
	a.start()
	a.check(sb, "cat kept", "kept\n")
	a.sleepsInTheStore(sb)
	if err := a.client.Destroy(t.Context(), sb, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	a.checkNothingLeft()
	a.killDuringCreate()
	a.start()
	a.checkNothingLeft()
}

// sleepsInTheStore hibernates a sandbox, and has it go on while its memory comes, whose agent is killed meanwhile.
func (a *process) sleepsInTheStore(sb id.Sandbox) {
	a.t.Helper()
	a.check(sb, "head -c 20000000 /dev/urandom > /dev/shm/blob; sha256sum < /dev/shm/blob > sum", "")
	s := &sleepy{process: a, sb: sb}
	s.hibernated()
	s.fetch()
	begun := time.Now()
	if _, err := a.client.Resume(a.t.Context(), sb); err != nil {
		a.t.Fatal(err)
	}
	a.t.Logf("woken without its memory after %v", time.Since(begun))
	a.check(sb, "cat kept", "kept\n")
	if len(s.later()) == 0 {
		a.t.Error("it was woken with all of its memory")
	}
	a.kill()
	a.start()
	a.check(sb, "sha256sum < /dev/shm/blob | cmp - sum && echo same", "same\n")
	s.awaitMemory()
	a.t.Logf("its memory was here after %v", time.Since(begun))
	s.hibernated()
	s.fetch()
	if _, err := a.client.Resume(a.t.Context(), sb); err != nil { // by its working set
		a.t.Fatal(err)
	}
	a.check(sb, "sha256sum < /dev/shm/blob | cmp - sum && cat kept", "kept\n")
}

// killDuringCreate kills the agent as soon as there is a VMM that it has started.
func (a *process) killDuringCreate() {
	a.t.Helper()
	sb, client, created := id.NewSandbox(), a.client, make(chan struct{})
	go func() {
		defer close(created)
		_, _ = client.Create(a.t.Context(), hostclient.NewSandbox{ID: sb, Template: "minimal", Size: models.Size{VCPUs: 1, MemoryMiB: 256}}) // it fails: the agent dies
	}()
	procs := filepath.Join(cgroups, string(sb), "cgroup.procs")
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(procs); err == nil && len(text) > 0 {
			break
		}
		if time.Now().After(deadline) {
			a.t.Fatal("no VMM was started in a cgroup of its own")
		}
	}
	a.kill()
	<-created
}

// cgroups is where the agent's default is on a host with cgroup v2, as the emulated one.
const cgroups = "/sys/fs/cgroup/wrenn.slice/sandboxes"

// checkNothingLeft looks for folders, cgroups and processes of sandboxes.
func (a *process) checkNothingLeft() {
	a.t.Helper()
	if left, err := os.ReadDir(filepath.Join(a.data, "sandboxes")); err != nil || len(left) > 0 {
		a.t.Errorf("left in the sandboxes folder: %v, %v", left, err)
	}
	if left, err := filepath.Glob(cgroups + "/sb-*"); err != nil || len(left) > 0 {
		a.t.Errorf("cgroups %v are left (%v)", left, err)
	}
	programs, err := filepath.Glob("/proc/[0-9]*/exe") // zombies have none
	if err != nil {
		a.t.Fatal(err)
	}
	for _, path := range programs {
		if name, err := os.Readlink(path); err == nil && (filepath.Base(name) == "firecracker" || filepath.Base(name) == "jailer") {
			a.t.Errorf("a process is left: %s, %s", path, name)
		}
	}
}

// process is a host agent that runs as a process of its own.
type process struct {
	t      *testing.T
	data   string
	driver string
	env    []string
	said   output
	cmd    *exec.Cmd
	client *hostclient.Client
}

// output is what an agent has written to its log, which is also the test's.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	return os.Stderr.Write(p)
}

func (o *output) count(words string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.text.String(), words)
}

// newProcess returns one that has an object store, and env beyond what this program has.
func newProcess(t *testing.T, driver string, env ...string) *process {
	a := &process{t: t, data: dataFolder(t), driver: driver}
	a.env = append(append(os.Environ(), beAgent+"=1", "WRENN_OBJECTS="+a.objects()), env...)
	t.Cleanup(func() {
		a.kill()
		if out, err := a.command("purge").CombinedOutput(); err != nil {
			t.Errorf("purge: %v\n%s", err, out)
		}
	})
	return a
}

// dataFolder is where WRENN_TEST_DATA says, if that is set: a temporary folder may lie in memory.
func dataFolder(t *testing.T) string {
	dir := os.Getenv("WRENN_TEST_DATA")
	if dir == "" {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // said by what is checked to be gone
	return dir
}

func (a *process) command(verb string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], verb, "--data", a.data, "--listen", a.address(), "--driver", a.driver, "--volume", "off",
		"--subnet", "10.0.0.0/24", "--kernel", a.getenv("WRENN_GUEST_KERNEL"), "--images", a.getenv("WRENN_GUEST_IMAGES"))
	cmd.Env = a.env
	return cmd
}

// getenv returns the last value of a variable, as for a process.
func (a *process) getenv(name string) (value string) {
	for _, one := range a.env {
		if its, ok := strings.CutPrefix(one, name+"="); ok {
			value = its
		}
	}
	return value
}

// objects is the folder of the object store.
func (a *process) objects() string { return a.data + ".objects" }

func (a *process) address() string { return "unix://" + filepath.Join(a.data, "agent.sock") }

// start returns when the agent answers.
func (a *process) start() {
	a.t.Helper()
	a.cmd = a.command("serve")
	a.cmd.Stderr = &a.said
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	var err error
	if a.client, err = hostclient.Dial(a.address()); err != nil {
		a.t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		info, err := a.client.Info(a.t.Context())
		if err == nil && info.Driver != a.driver {
			a.t.Fatalf("the agent took the driver %s", info.Driver)
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// kill is kill -9; it can be repeated.
func (a *process) kill() {
	if a.cmd == nil {
		return
	}
	_ = a.client.Close()
	_ = a.cmd.Process.Signal(syscall.SIGKILL)
	_ = a.cmd.Wait()
	a.cmd = nil
}

// check runs a command line in the sandbox and fails the test when it does not say what it should.
func (a *process) check(sb id.Sandbox, shell, want string) {
	a.t.Helper()
	if got := a.say(sb, shell); got != want {
		a.t.Errorf("%q said %q, not %q", shell, got, want)
	}
}

// say returns what a command line says in the sandbox.
func (a *process) say(sb id.Sandbox, shell string) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Minute)
	defer cancel()
	guest := envdclient.New(func(ctx context.Context) (net.Conn, error) { return a.client.Tunnel(ctx, sb) }, "")
	defer guest.Close()
	run, err := guest.Exec(ctx, envdclient.Command{Cmd: "/bin/sh", Args: []string{"-c", shell}})
	if err != nil {
		a.t.Fatal(err)
	}
	defer run.Close()
	var got strings.Builder
	for {
		event, err := run.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			a.t.Fatal(err)
		}
		switch e := event.(type) {
		case envdclient.Stdout:
			got.Write(e)
		case envdclient.Stderr:
			got.Write(e)
		}
	}
	return got.String()
}

func (a *process) eventually(what string, try func() error) {
	a.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}
