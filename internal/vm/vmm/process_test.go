package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// limit bounds every wait.
const limit = time.Minute

func shell(dir, script string) Command {
	return Command{Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Env: []string{"PATH=/usr/bin:/bin"}}
}

// spawn starts a process that is gone after the test.
func spawn(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := Spawn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return keep(t, p)
}

func keep(t *testing.T, p *Process) *Process {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Kill(context.Background()); err != nil && !errors.Is(err, vm.ErrReleased) {
			t.Error(err)
		}
		p.Release()
	})
	return p
}

func adopt(t *testing.T, id Identity) *Process {
	t.Helper()
	p, err := Adopt(id)
	if err != nil {
		t.Fatal(err)
	}
	return keep(t, p)
}

func wait(t *testing.T, p *Process) Status {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(limit):
		t.Fatal("the process has not ended")
	}
	return p.Status()
}

func TestStatus(t *testing.T) {
	for script, want := range map[string]Status{
		"exit 0":        {Known: true},
		"exit 7":        {Known: true, Code: 7},
		"kill -TERM $$": {Known: true, Signal: 15},
	} {
		got := wait(t, spawn(t, shell(t.TempDir(), script)))
		if got.At.IsZero() {
			t.Errorf("%s: no time", script)
		}
		if got.At = (time.Time{}); got != want {
			t.Errorf("%s: %+v, want %+v", script, got, want)
		}
	}
}

func TestSpawnFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Spawn(ctx, shell(t.TempDir(), "sleep 600")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if _, err := Spawn(t.Context(), Command{Path: "/nowhere/vmm", Dir: t.TempDir()}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a program: %v", err)
	}
	if _, err := Spawn(t.Context(), shell("/nowhere", "sleep 600")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

// TestInheritsNothing looks at the descriptors of a process.
func TestInheritsNothing(t *testing.T) {
	loose, err := unix.Dup(0) // not close-on-exec, as what an agent inherits may be
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(loose)
	given, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	command := Command{Path: "/bin/sleep", Args: []string{"600"}, Dir: t.TempDir(), Files: []*os.File{given}}
	p := spawn(t, command)
	await(t, "it has the descriptors 0 to 3", func() bool { // its loader has others for a moment
		got, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Identity().PID))
		return err == nil && len(got) == 4
	})
}

// TestDetached looks at a process from within.
func TestDetached(t *testing.T) {
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	command := shell(dir, `
		echo stdin $(readlink /proc/$$/fd/0)
		echo cwd $(pwd)
		echo env $(tr '\0' ' ' </proc/$$/environ)
		read -r pid name state parent group session rest </proc/$$/stat
		echo own session $((session == $$)) own group $((group == $$))`)
	command.Stdout = out
	if status := wait(t, spawn(t, command)); status.Code != 0 {
		t.Errorf("status %+v", status)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("stdin /dev/null\ncwd %s\nenv WRENN_VM_DIR=%s PATH=/usr/bin:/bin\nown session 1 own group 1\n", dir, dir)
	if string(text) != want {
		t.Errorf("the process sees:\n%s\nwant:\n%s", text, want)
	}
}

func TestKill(t *testing.T) {
	p := spawn(t, shell(t.TempDir(), "trap '' TERM; sleep 600"))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := p.Kill(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if s := p.Status(); !s.Known || s.Signal != int(syscall.SIGKILL) {
		t.Errorf("status %+v", s)
	}
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to a dead process: %v", err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.Identity().PID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a zombie is left: %v", err)
	}
}

func TestRelease(t *testing.T) {
	before, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	p := spawn(t, shell(t.TempDir(), "exec sleep 600"))
	id := p.Identity()
	p.Release()
	p.Release()
	if now := openDescriptors(t); now > descriptors {
		t.Errorf("%d descriptors are open, %d before", now, descriptors)
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	for _, err := range []error{p.Kill(t.Context()), p.Signal(unix.SIGKILL)} {
		if !errors.Is(err, vm.ErrReleased) {
			t.Errorf("after Release: %v", err)
		}
	}
	again := adopt(t, id)
	if err := again.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if s := wait(t, again); s.Signal != int(syscall.SIGTERM) || !s.Known {
		t.Errorf("status of a child that was adopted again: %+v", s)
	}
}

// orphan starts a process that is no child of this one.
func orphan(t *testing.T) Identity {
	t.Helper()
	text, err := exec.Command("/bin/sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAdoptOrphan(t *testing.T) {
	p := adopt(t, orphan(t))
	select {
	case <-p.Done():
		t.Fatal("it is taken for dead")
	case <-time.After(50 * time.Millisecond):
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := p.Status(); s.Known || s.Signal != 0 || s.At.IsZero() {
		t.Errorf("status of somebody else's child: %+v", s)
	}
}

func TestAdoptImpostor(t *testing.T) {
	p := spawn(t, shell(t.TempDir(), "exec sleep 600"))
	right := p.Identity()
	for name, spoil := range map[string]func(*Identity){
		"start time":   func(id *Identity) { id.StartTime++ },
		"boot":         func(id *Identity) { id.BootID = "another" },
		"no process":   func(id *Identity) { id.PID = 0 },
		"all of them":  func(id *Identity) { id.PID = -1 },
		"free pid":     func(id *Identity) { id.PID = 1<<22 + 1 }, // beyond the largest pid_max
		"this process": func(id *Identity) { id.PID = os.Getpid() },
	} {
		id := right
		spoil(&id)
		if _, err := Adopt(id); !errors.Is(err, vm.ErrGone) {
			t.Errorf("%s: %v, want ErrGone", name, err)
		}
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(right); !errors.Is(err, vm.ErrGone) {
		t.Errorf("a dead process: %v, want ErrGone", err)
	}
}

// TestAdoptThread offers a pid that has become that of a thread.
func TestAdoptThread(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tids := make(chan int)
	stop := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		<-stop
	}()
	defer close(stop)
	for _, tid := range []int{unix.Gettid(), <-tids} { // one of them is not the process's first thread
		id, err := Identify(tid)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := Adopt(id); tid == os.Getpid() && err == nil {
			p.Release()
		} else if !errors.Is(err, vm.ErrGone) {
			t.Errorf("thread %d: %v, want ErrGone", tid, err)
		}
	}
}

// TestAdoptZombie offers a process that has ended but was not reaped: its pid and start time are still right.
func TestAdoptZombie(t *testing.T) {
	child := exec.Command("/bin/sh", "-c", "exit 0")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Wait() }()
	id, err := Identify(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, id.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(id); !errors.Is(err, vm.ErrGone) {
		t.Errorf("a zombie: %v, want ErrGone", err)
	}
}

// TestManyAtOnce is for the race detector, and for descriptors and goroutines that are not given back.
func TestManyAtOnce(t *testing.T) {
	before, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			p, err := Spawn(t.Context(), shell(t.TempDir(), fmt.Sprintf("exit %d", i)))
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Done()
			if got := p.Status().Code; got != i {
				t.Errorf("status %d, want %d", got, i)
			}
			p.Release()
		})
	}
	group.Wait()
	if now := openDescriptors(t); now > descriptors {
		t.Errorf("%d descriptors are open, %d before", now, descriptors)
	}
	for deadline := time.Now().Add(limit); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestOutlivesItsAgent has a copy of the test binary start a process and be killed.
func TestOutlivesItsAgent(t *testing.T) {
	const env = "WRENN_VMM_AGENT_DIR"
	if dir := os.Getenv(env); dir != "" {
		p, err := Spawn(t.Context(), shell(dir, "exec sleep 600"))
		if err != nil {
			t.Fatal(err)
		}
		id := p.Identity()
		fmt.Fprintf(os.Stderr, "\nidentity %d %d %s\n", id.PID, id.StartTime, id.BootID)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	agent := exec.Command(os.Args[0], "-test.run=^TestOutlivesItsAgent$")
	agent.Env = append(os.Environ(), env+"="+t.TempDir())
	output, err := agent.CombinedOutput() // returns although the process runs on: it holds no descriptor of the agent's
	var id Identity
	_, text, found := strings.Cut(string(output), "\nidentity ")
	if _, scanErr := fmt.Sscan(text, &id.PID, &id.StartTime, &id.BootID); !found || scanErr != nil {
		t.Fatalf("the agent said %q, %v", output, err)
	}
	p := adopt(t, id)
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
