package reap_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"golang.org/x/sys/unix"
)

func shell(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }

// waitFor is Child.Wait with a limit.
func waitFor(child *reap.Child) (unix.WaitStatus, error) {
	select {
	case <-child.Done():
	case <-time.After(patience):
		return 0, fmt.Errorf("process %d has not ended", child.PID())
	}
	status, _, err := child.Wait()
	return status, err
}

func exitCode(r *reap.Reaper, cmd *exec.Cmd) (int, error) {
	child, err := r.Start(cmd)
	if err != nil {
		return 0, err
	}
	status, err := waitFor(child)
	return status.ExitStatus(), err
}

// statuses starts many short children at once while orphans end among them.
func statuses() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	var group sync.WaitGroup
	failures := make(chan error, 200)
	for i := range 200 {
		group.Go(func() {
			want := i % 100
			got, err := exitCode(r, shell("(exit 101) & exit "+strconv.Itoa(want)))
			if err != nil || got != want {
				failures <- fmt.Errorf("child %d: exit code %d, error %v", i, got, err)
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		return err
	}
	return eventually(childless)
}

// orphans leaves grandchildren behind, whose parent is gone when they end.
func orphans() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	for range 20 {
		if code, err := exitCode(r, shell("(sleep 0.05; (sleep 0.05) & exit 3) & exit 4")); code != 4 || err != nil {
			return fmt.Errorf("exit code %d, error %v", code, err)
		}
	}
	if err := eventually(childless); err != nil {
		return err
	}
	return eventually(func() error {
		if n := r.Orphans(); n < 20 {
			return fmt.Errorf("%d orphans were counted", n)
		}
		return nil
	})
}

func refusals() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	withReader := shell("cat")
	withReader.Stdin = strings.NewReader("text")
	withContext := exec.CommandContext(context.Background(), "/bin/true")
	for _, cmd := range []*exec.Cmd{withReader, withContext} {
		if _, err := r.Start(cmd); err == nil || cmd.Process != nil {
			return fmt.Errorf("%v was not refused", cmd)
		}
	}
	return nil
}

// missing starts what cannot be executed: first the file is not there, then it is no program.
func missing() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := r.Start(exec.Command("/nonexistent/program")); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("missing program: %v", err)
	}
	if _, err := r.Start(exec.Command("/etc/passwd")); !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("a file that is no program: %v", err)
	}
	if code, err := exitCode(r, shell("exit 9")); code != 9 || err != nil {
		return fmt.Errorf("afterwards: exit code %d, error %v", code, err)
	}
	return eventually(childless)
}

func signals() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	child, err := r.Start(exec.Command("sleep", "1000"))
	if err != nil {
		return err
	}
	if err := child.Signal(unix.SIGTERM); err != nil {
		return err
	}
	status, err := waitFor(child)
	if err != nil || !status.Signaled() || status.Signal() != unix.SIGTERM {
		return fmt.Errorf("status %v, error %v", status, err)
	}
	if err := child.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal to a process that has ended: %v", err)
	}
	if err := child.SignalGroup(unix.SIGTERM); err == nil || errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal to the group of a process that leads none: %v", err)
	}
	return child.KillTree()
}

// closing ends a Reaper under a child that still runs.
func closing() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	cmd := exec.Command("sleep", "1000")
	child, err := r.Start(cmd)
	if err != nil {
		return err
	}
	r.Close()
	if _, _, err := child.Wait(); !errors.Is(err, reap.ErrClosed) {
		return fmt.Errorf("wait after close: %v", err)
	}
	return cmd.Process.Kill()
}

// groupless kills a process group without the help of cgroups.
func groupless() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := shell("sleep 1000 & sleep 1000 & wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	child, err := r.Start(cmd)
	if err != nil {
		return err
	}
	if err := child.KillTree(); err != nil {
		return err
	}
	if _, err := waitFor(child); err != nil {
		return err
	}
	return eventually(childless)
}

// tree kills a child whose descendants have left its session and lost their parent.
func tree() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	ready, err := os.CreateTemp("", "wrenn-reap-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(ready.Name()) }()
	child, err := r.Start(shell("(setsid sh -c 'echo up >" + ready.Name() + "; sleep 1000' &) ; sleep 1000"))
	if err != nil {
		return err
	}
	if err := eventually(func() error { return notEmpty(ready.Name()) }); err != nil {
		return err
	}
	if err := child.KillTree(); err != nil {
		return err
	}
	if status, err := waitFor(child); err != nil || status.Signal() != unix.SIGKILL {
		return fmt.Errorf("status %v, error %v", status, err)
	}
	if err := eventually(childless); err != nil {
		return err
	}
	return eventually(func() error { return sweptBy(r, 0) })
}

func notEmpty(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() == 0 {
		return errors.New("nothing was written")
	}
	return err
}

// lingering leaves a process behind, whose cgroup must outlive the child and go later.
func lingering() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	child, err := r.Start(shell("sleep 1000 & exit 0"))
	if err != nil {
		return err
	}
	if _, err := waitFor(child); err != nil {
		return err
	}
	if err := sweptBy(r, 1); err != nil {
		return err
	}
	if err := child.KillTree(); err != nil {
		return err
	}
	if err := eventually(childless); err != nil {
		return err
	}
	if err := eventually(func() error { return sweptBy(r, 0) }); err != nil {
		return err
	}
	return child.KillTree()
}

// victims kills for want of memory: each time the largest process alone, and at last all of the crowd that it is one of.
func victims() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	if said, err := r.KillLargest(); !errors.Is(err, reap.ErrNoVictim) {
		return fmt.Errorf("among none: %q, %v", said, err)
	}
	small, err := r.Start(exec.Command("sleep", "1000"))
	if err != nil {
		return err
	}
	crowd, err := startCrowd(r)
	if err != nil {
		return err
	}
	one := regexp.MustCompile(`^process \d+ \(sh\)$`)
	for _, want := range []*regexp.Regexp{one, one, one, regexp.MustCompile(`^all of p\d+$`)} {
		if said, err := r.KillLargest(); err != nil || !want.MatchString(said) {
			return fmt.Errorf("%q was killed, %v; want %s", said, err, want)
		}
	}
	if status, err := waitFor(crowd); err != nil || status.Signal() != unix.SIGKILL || !crowd.OOMKilled() {
		return fmt.Errorf("the crowd: %v, for want of memory %v, %v", status, crowd.OOMKilled(), err)
	}
	if err := small.Signal(unix.SIGTERM); err != nil {
		return err
	}
	if status, err := waitFor(small); err != nil || status.Signal() != unix.SIGTERM || small.OOMKilled() {
		return fmt.Errorf("the small one: %v, for want of memory %v, %v", status, small.OOMKilled(), err)
	}
	return eventually(childless)
}

// startCrowd starts a program with much memory, and copies of it.
func startCrowd(r *reap.Reaper) (*reap.Child, error) {
	ready, err := os.CreateTemp("", "wrenn-reap-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(ready.Name()) }()
	child, err := r.Start(shell("x=$(head -c 8M /dev/zero | tr '\\0' x); for i in 1 2 3 4 5 6; do (while :; do sleep 1; done) & done; echo up >" +
		ready.Name() + "; wait"))
	if err != nil {
		return nil, err
	}
	return child, eventually(func() error { return notEmpty(ready.Name()) })
}

// sweptBy has a process end, upon which others' cgroups are removed, and checks how many are left then beside the one that is made ahead.
func sweptBy(r *reap.Reaper, want int) error {
	if _, err := exitCode(r, exec.Command("/bin/true")); err != nil {
		return err
	}
	return eventually(func() error {
		left, err := filepath.Glob(filepath.Join(os.Getenv(cgroupVariable), "p*"))
		if err != nil || len(left) != want+1 {
			return fmt.Errorf("cgroups %v are left, want %d and one: %v", left, want, err)
		}
		return nil
	})
}

// ahead has a cgroup made for the next process, which does without it if somebody has removed it.
func ahead() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := exitCode(r, exec.Command("/bin/true")); err != nil {
		return err
	}
	made, err := next("p1")
	if err != nil {
		return err
	}
	child, err := r.Start(exec.Command("sleep", "1000"))
	if err != nil {
		return err
	}
	if group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", child.PID())); err != nil || !strings.HasSuffix(strings.TrimSpace(string(group)), "/"+filepath.Base(made)) {
		return fmt.Errorf("it is in %q, %v, and not in %v", group, err, made)
	}
	if err := child.KillTree(); err != nil {
		return err
	}
	if _, err := waitFor(child); err != nil {
		return err
	}
	if made, err = next(filepath.Base(made)); err != nil {
		return err
	}
	if err := os.Remove(made); err != nil {
		return err
	}
	if code, err := exitCode(r, exec.Command("/bin/true")); err != nil || code != 0 {
		return fmt.Errorf("without what was made for it: %d, %v", code, err)
	}
	return nil
}

// tidyLatest is that of package reap, and fairly is well before it.
const tidyLatest, fairly = time.Second, 600 * time.Millisecond

// tidied has the next cgroup made as soon as it is told to. A machine that is busy may take longer for a time or two.
func tidied() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	last, all := "p1", []time.Duration{}
	for range 20 {
		if _, err := exitCode(r, exec.Command("/bin/true")); err != nil {
			return err
		}
		ended := time.Now()
		r.Tidy()
		made, err := next(last)
		if err != nil {
			return err
		}
		took := time.Since(ended)
		if took < fairly {
			return nil
		}
		last, all = filepath.Base(made), append(all, took)
	}
	return fmt.Errorf("it took %v", all)
}

// untidied: what nobody tells it to do it does at last.
func untidied() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	started := time.Now()
	if _, err := exitCode(r, exec.Command("/bin/true")); err != nil {
		return err
	}
	if _, err := next("p1"); err != nil {
		return err
	}
	if took := time.Since(started); took < tidyLatest {
		return fmt.Errorf("it was done after %v already", took)
	}
	return nil
}

// next waits until there is one cgroup and it is another than the last one.
func next(last string) (made string, err error) {
	err = eventually(func() error {
		all, err := filepath.Glob(filepath.Join(os.Getenv(cgroupVariable), "p*"))
		if err != nil || len(all) != 1 || filepath.Base(all[0]) == last {
			return fmt.Errorf("there are %v, %v", all, err)
		}
		made = all[0]
		return nil
	})
	return made, err
}

// draining ends when the last descendant has ended, an orphan in its own session.
func draining() error {
	r, err := newReaper()
	if err != nil {
		return err
	}
	defer r.Close()
	child, err := r.Start(shell("setsid sleep 1000 & exec sleep 1000"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("drained with processes left: %v", err)
	}
	if _, err := r.Start(shell("exit")); !errors.Is(err, reap.ErrClosed) {
		return fmt.Errorf("start after drain: %v", err)
	}
	if err := child.Signal(unix.SIGKILL); err != nil {
		return err
	}
	if _, err := waitFor(child); err != nil {
		return err
	}
	if err := killOrphans(); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		return err
	}
	return childless()
}

// killOrphans kills the children that came to this process from elsewhere.
func killOrphans() error {
	return eventually(func() error {
		list, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
		if err != nil {
			return err
		}
		pids := strings.Fields(string(list))
		if len(pids) == 0 {
			return errors.New("no orphan yet")
		}
		for _, text := range pids {
			pid, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return err
			}
		}
		return nil
	})
}
