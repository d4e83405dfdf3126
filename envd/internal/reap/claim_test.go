package reap

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// claimable is a Reaper that nobody runs, in the middle of a Start.
func claimable(ended map[int]status) *Reaper {
	return &Reaper{children: map[int]*Child{}, starting: true, unclaimed: ended, stopped: make(chan struct{})}
}

// A child may end, and be waited for, before Start knows its pid.
func TestClaimFindsAChildThatIsGone(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	r := claimable(map[int]status{cmd.Process.Pid: {wait: 5 << 8}})
	child := r.claim(cmd, nil)
	if got, _, err := child.Wait(); err != nil || got.ExitStatus() != 5 {
		t.Errorf("status %v, error %v", got, err)
	}
	if len(r.children) != 0 || r.starting {
		t.Error("the child is still waited for")
	}
}

// An orphan may have ended under the very pid that the child was given afterwards.
func TestClaimIgnoresAnOrphanOfTheSamePid(t *testing.T) {
	cmd := exec.Command("/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	r := claimable(map[int]status{cmd.Process.Pid: {wait: 5 << 8}})
	child := r.claim(cmd, nil)
	select {
	case <-child.Done():
		t.Error("a running child was given an orphan's status")
	default:
	}
	if r.children[child.PID()] != child {
		t.Error("the child is not waited for")
	}
}

// While one Start is stuck, the status of earlier children still reaches them.
func TestDeliverDuringAStart(t *testing.T) {
	r := claimable(nil)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	known := newChild(r, &exec.Cmd{Process: self}, nil)
	r.children[7] = known
	r.deliver(8, status{wait: 1 << 8})
	r.deliver(7, status{wait: 2 << 8})
	if got, usage, err := known.Wait(); err != nil || got != unix.WaitStatus(2<<8) || usage == nil {
		t.Errorf("status %v, usage %v, error %v", got, usage, err)
	}
	if r.unclaimed[8].wait != 1<<8 || r.Orphans() != 1 {
		t.Errorf("unclaimed %v, orphans %d", r.unclaimed, r.Orphans())
	}
}
