package child

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// soon is a generous limit for what takes milliseconds on an idle machine.
const soon = time.Minute

func shell(script string, out io.Writer) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ(), Stdout: out, Stderr: out, DeathSignal: syscall.SIGKILL}
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return ctx
}

func TestOutputAndStatus(t *testing.T) {
	var out bytes.Buffer
	p, err := Start(shell("echo out; echo err >&2; exit 3", &out))
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Err(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("exit 3 gave %v", err)
	}
	if out.String() != "out\nerr\n" {
		t.Errorf("output %q", out.String())
	}
	p.Stop(limit(t), Step{syscall.SIGTERM, soon}) // of what has ended: no effect
}

func TestMissingProgramIsAnError(t *testing.T) {
	if _, err := Start(Spec{Path: "/no/such/program"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program gave %v", err)
	}
}

// The environment is what the spec says, also when that is nothing.
func TestEnvironmentIsNotInherited(t *testing.T) {
	t.Setenv("CHILD_TEST_SECRET", "leaked")
	var out bytes.Buffer
	spec := shell("echo ${CHILD_TEST_SECRET:-none}", &out)
	spec.Env = nil
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err != nil || out.String() != "none\n" {
		t.Errorf("output %q, %v", out.String(), err)
	}
}

func TestStopTakesTheStepsInTurn(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec := shell(`trap 'echo int' INT; trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.02; done`, nil)
	spec.Stdout, spec.Stderr = w, nil
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	said := make([]byte, 100)
	if n, err := r.Read(said); err != nil || string(said[:n]) != "up\n" {
		t.Fatalf("it said %q, %v", said[:n], err)
	}
	p.Stop(limit(t), Step{syscall.SIGINT, 500 * time.Millisecond}, Step{syscall.SIGTERM, soon})
	if err := p.Err(); err != nil {
		t.Errorf("it did not end by itself: %v", err)
	}
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(r); err != nil || rest.String() != "int\nterm\n" {
		t.Errorf("it said %q, %v", rest.String(), err)
	}
}

func TestStopKillsTheGroupOfWhatDoesNotListen(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec := shell(`trap '' TERM; sleep 600 & echo $!; wait; wait`, nil)
	spec.Stdout, spec.Stderr = w, nil
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	line := make([]byte, 20)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	p.Stop(limit(t), Step{syscall.SIGTERM, 50 * time.Millisecond})
	ctx := limit(t)
	for alive(grandchild) {
		if ctx.Err() != nil {
			t.Fatal("the grandchild lives on")
		}
		runtime.Gosched()
	}
}

// alive is false for a zombie that nobody has collected yet.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestStopObeysItsContext(t *testing.T) {
	p, err := Start(shell(`trap '' TERM; while :; do sleep 0.05; done`, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.Stop(ctx, Step{syscall.SIGTERM, 24 * time.Hour})
	if p.Err() == nil {
		t.Error("it ended by itself")
	}
}

// A child must not die with the thread that happened to start it. Meanwhile threads end all the time.
func TestDeathSignalIsNotTiedToAnEndingThread(t *testing.T) {
	stop := make(chan struct{})
	var churn sync.WaitGroup
	for range 4 {
		churn.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					var one sync.WaitGroup
					one.Add(1)
					go func() {
						runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
						one.Done()
					}()
					one.Wait()
				}
			}
		})
	}
	var children []*Process
	for range 40 {
		p, err := Start(shell("sleep 0.2; exit 7", nil))
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, p)
	}
	for _, p := range children {
		var exit *exec.ExitError
		if err := p.Err(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("process %d ended with %v", p.PID(), err)
		}
	}
	close(stop)
	churn.Wait()
}

var quickly = Policy{Logger: slog.New(slog.DiscardHandler), Backoff: time.Millisecond, Healthy: time.Hour}

func TestKeeperRestartsAndGivesUp(t *testing.T) {
	var starts atomic.Int32
	gaveUp := make(chan error, 1)
	policy := quickly
	policy.MaxQuickDeaths, policy.GaveUp = 4, func(err error) { gaveUp <- err }
	k, err := Keep(limit(t), "thing", func(context.Context) (*Process, error) {
		starts.Add(1)
		return Start(shell("exit 9", nil))
	}, policy)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Stop(limit(t))
	select {
	case err := <-gaveUp:
		if want := "thing ended 4 times in quick succession, the last time with: exit status 9"; err.Error() != want {
			t.Errorf("gave up with %q", err)
		}
	case <-limit(t).Done():
		t.Fatal("it never gave up")
	}
	if n := starts.Load(); n != 4 {
		t.Errorf("%d starts", n)
	}
}

func TestKeeperCountsFailedStarts(t *testing.T) {
	var starts atomic.Int32
	gaveUp := make(chan error, 1)
	policy := quickly
	policy.MaxQuickDeaths, policy.GaveUp = 3, func(err error) { gaveUp <- err }
	k, err := Keep(limit(t), "thing", func(context.Context) (*Process, error) {
		if starts.Add(1) > 1 {
			return nil, errors.New("never ready")
		}
		return Start(shell("exit 0", nil))
	}, policy)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Stop(limit(t))
	select {
	case err := <-gaveUp:
		if !strings.HasSuffix(err.Error(), "never ready") {
			t.Errorf("gave up with %q", err)
		}
	case <-limit(t).Done():
		t.Fatal("it never gave up")
	}
}

func TestHealthyLivesClearTheRecord(t *testing.T) {
	var starts atomic.Int32
	enough := make(chan struct{})
	policy := quickly
	policy.Healthy, policy.MaxQuickDeaths = time.Nanosecond, 2
	policy.GaveUp = func(err error) { t.Errorf("gave up: %v", err) }
	k, err := Keep(limit(t), "thing", func(context.Context) (*Process, error) {
		if starts.Add(1) == 10 {
			close(enough)
		}
		return Start(shell("exit 0", nil))
	}, policy)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-enough:
	case <-limit(t).Done():
		t.Error("it was not started ten times")
	}
	k.Stop(limit(t))
}

func TestFirstStartFailsAtOnce(t *testing.T) {
	want := errors.New("no")
	_, err := Keep(limit(t), "thing", func(context.Context) (*Process, error) { return nil, want }, quickly)
	if !errors.Is(err, want) {
		t.Errorf("the first start gave %v", err)
	}
}

// What becomes ready only after Stop was called is stopped too.
func TestStopReachesAStartUnderWay(t *testing.T) {
	var late *Process
	restarted := make(chan struct{})
	first := true
	k, err := Keep(limit(t), "thing", func(ctx context.Context) (*Process, error) {
		if first {
			first = false
			return Start(shell("exit 1", nil))
		}
		close(restarted)
		<-ctx.Done()
		var err error
		late, err = Start(shell("sleep 600", nil))
		return late, err
	}, quickly)
	if err != nil {
		t.Fatal(err)
	}
	<-restarted
	k.Stop(limit(t))
	select {
	case <-late.Done():
	default:
		t.Error("it runs on")
		late.Stop(limit(t))
	}
}

// Stop at any moment of a life, a pause or a start leaves nothing running.
func TestStopAtAnyMomentLeavesNothing(t *testing.T) {
	for i := range 40 {
		var mu sync.Mutex
		var all []*Process
		k, err := Keep(limit(t), "thing", func(context.Context) (*Process, error) {
			p, err := Start(shell("sleep 0.002", nil))
			mu.Lock()
			defer mu.Unlock()
			all = append(all, p)
			return p, err
		}, Policy{Logger: quickly.Logger, Backoff: time.Millisecond, MaxQuickDeaths: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i) * 300 * time.Microsecond)
		k.Stop(limit(t))
		k.Stop(limit(t)) // again: no effect
		for _, p := range all {
			select {
			case <-p.Done():
			default:
				t.Errorf("round %d: process %d lives on", i, p.PID())
			}
		}
	}
}
