package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// cyclesEnv says how many cycles TestCycles has; `make test-cycles` says 1000. Without it there are as few as do each thing once.
const cyclesEnv = "WRENN_CYCLES"

// What is in the sandbox: a file on its disk, one in its memory, and a process that counts. look prints all of it, and change writes to both files, to a part of
// them that is its argument.
const (
	laden  = `head -c 2097152 /dev/urandom > blob; head -c 4194304 /dev/urandom > /dev/shm/blob; ` + counting
	look   = `sha256sum blob /dev/shm/blob; kill -0 $(cat pid) && until test -n "$beat"; do beat=$(cat beat); done; echo $beat`
	change = `for f in blob /dev/shm/blob; do dd if=/dev/urandom of=$f bs=65536 seek=%d count=1 conv=notrunc 2>/dev/null; done; sha256sum blob /dev/shm/blob`
	parts  = 32
)

// TestCycles puts a sandbox to sleep, wakes it and forks it, again and again, while agent, control plane, object store and VMMs are killed at random moments. Each time it comes to
// a state in which it can stay, and all that is in it is what it was; and nothing is left of what has gone.
func TestCycles(t *testing.T) {
	c := newCycles(t)
	ways, troubles := c.ways(), []string{"", "agent", "control plane", "object store", "VMM"}
	count, calm := len(troubles), 1
	if text := os.Getenv(cyclesEnv); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", cyclesEnv, err)
		}
		calm = 5 // of so many cycles one is troubled
	}
	begun := time.Now()
	for c.done = 0; c.done < count && !t.Failed(); c.done++ {
		trouble := ""
		if c.done%calm == 0 {
			trouble = troubles[c.done/calm%len(troubles)]
		}
		c.cycle(ways[c.done%len(ways)], trouble)
		if c.done%100 == 99 {
			t.Logf("%d cycles in %v; %s", c.done+1, time.Since(begun).Round(time.Second), c.held())
		}
	}
	c.checkLeaks()
	t.Logf("%d cycles in %v, %d troubles, the longest until all was well again %v; %s", c.done, time.Since(begun).Round(time.Second), c.troubled, c.longest, c.held())
	c.destroy(c.id)
	if left := c.leftovers(); left != "" {
		t.Errorf("destroyed, it leaves\n%s", left)
	}
}

// cycles is a sandbox that has been through some of them.
type cycles struct {
	*sleeper
	random   *rand.Rand
	done     int
	troubled int
	longest  time.Duration
}

func newCycles(t *testing.T) *cycles {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &cycles{sleeper: newSleeper(t), random: rand.New(rand.NewPCG(seed, 0))}
	c.shell(c.id, laden)
	c.change()
	return c
}

// ways are what is done in a cycle, by turns.
func (c *cycles) ways() []func(context.Context, string) error {
	return []func(context.Context, string) error{c.warm, c.cold, c.forked}
}

func (c *cycles) warm(ctx context.Context, id string) error {
	if _, err := c.client.PauseSandbox(ctx, id); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	if _, err := c.client.ResumeSandbox(ctx, id); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

func (c *cycles) cold(ctx context.Context, id string) error {
	if _, err := c.client.HibernateSandbox(ctx, id); err != nil {
		return fmt.Errorf("hibernate: %w", err)
	}
	if _, err := c.client.ResumeSandbox(ctx, id); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// forked looks at a child, and destroys it.
func (c *cycles) forked(ctx context.Context, id string) error {
	children, err := c.client.ForkSandbox(ctx, id, wrenn.ForkRequest{Count: 1})
	if err != nil {
		return fmt.Errorf("fork: %w", err)
	}
	if len(children) != 1 {
		return fmt.Errorf("fork: there are the children %+v", children)
	}
	if _, err := c.look(ctx, children[0].ID); err != nil {
		return fmt.Errorf("a child: %w", err)
	}
	if _, err := c.client.DestroySandbox(ctx, children[0].ID); err != nil {
		return fmt.Errorf("destroy a child: %w", err)
	}
	return nil
}

// cycle does one, during which something is killed, unless trouble is empty.
func (c *cycles) cycle(do func(context.Context, string) error, trouble string) {
	c.t.Helper()
	strike, mend := c.troubleOf(trouble)
	id := c.id
	if trouble == "VMM" { // what its VM had in its memory alone is lost with it, so that it has to be another one's
		id = c.fork(c.id, 1)[0].ID
		strike = func() { c.killVMM(id) }
	}
	ended := make(chan error, 1)
	go func() { ended <- do(c.context(), id) }()
	if strike != nil {
		c.troubled++
		time.Sleep(upTo(c.random, 2500*time.Millisecond)) // longer than most of it takes
		strike()
	}
	struck := time.Now()
	mend()
	if err := <-ended; err != nil && trouble == "" {
		c.t.Errorf("cycle %d: %v", c.done, err)
	}
	if id != c.id {
		c.converges(id)
		c.endChild(id)
	}
	c.converges(c.id)
	c.destroyOthers()
	c.checkWhole()
	if trouble != "" {
		c.longest = max(c.longest, time.Since(struck))
	}
	c.change()
}

// troubleOf returns what kills, and what brings back.
func (c *cycles) troubleOf(what string) (strike, mend func()) {
	switch what {
	case "agent":
		return func() { c.agent.stop(syscall.SIGKILL) }, func() { c.startAgent(); c.waitReady() }
	case "control plane":
		return c.killControlPlane, c.startControlPlane
	case "object store":
		return c.server.Kill, func() {
			time.Sleep(upTo(c.random, time.Second))
			c.back()
		}
	}
	return nil, func() {}
}

// killVMM kills the VMM of a sandbox, if it has one.
func (c *cycles) killVMM(id string) {
	for _, found := range c.processes() {
		pid, err := strconv.Atoi(strings.TrimPrefix(found, "process "))
		if err != nil {
			c.t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && strings.Contains(string(text), id) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// endChild destroys a sandbox whose VMM was killed. What it is must be clear: gone, or whole, or failed with a reason.
func (c *cycles) endChild(id string) {
	c.t.Helper()
	sb, err := c.client.GetSandbox(c.context(), id)
	switch {
	case err != nil:
		c.t.Errorf("cycle %d: a sandbox whose VMM was killed: %v", c.done, err)
	case sb.State == wrenn.Failed && sb.StateReason == "":
		c.t.Errorf("cycle %d: a sandbox whose VMM was killed is %+v", c.done, sb)
	case sb.State == wrenn.Paused || sb.State == wrenn.Hibernated:
		if _, err := c.look(c.context(), id); err != nil {
			c.t.Errorf("cycle %d: a sandbox whose VMM was killed, and which slept: %v", c.done, err)
		}
	}
}

// lasting are the states that a sandbox can stay in.
var lasting = []wrenn.State{wrenn.Running, wrenn.Paused, wrenn.Hibernated, wrenn.Stopped, wrenn.Failed}

// converges waits until a sandbox is in a state in which it can stay.
func (c *cycles) converges(id string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s is in a state that lasts (cycle %d)", id, c.done), func(ctx context.Context) error {
		sb, err := c.client.GetSandbox(ctx, id)
		if err == nil && !slices.Contains(lasting, sb.State) {
			err = fmt.Errorf("it is %s: %s", sb.State, sb.StateReason)
		}
		return err
	})
}

// destroyOthers destroys what was left of forks that were broken off.
func (c *cycles) destroyOthers() {
	c.t.Helper()
	page, err := c.client.ListSandboxes(c.context(), wrenn.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, sb := range page.Items {
		if sb.ID != c.id && sb.State != wrenn.Stopped {
			c.converges(sb.ID)
			c.destroy(sb.ID)
		}
	}
}

// checkWhole has the sandbox woken, if it sleeps, by a look at it.
func (c *cycles) checkWhole() {
	c.t.Helper()
	c.eventually(fmt.Sprintf("it is whole (cycle %d)", c.done), func(ctx context.Context) error {
		beat, err := c.look(ctx, c.id)
		if err != nil && strings.HasPrefix(err.Error(), "it ") {
			c.t.Fatalf("cycle %d: %v", c.done, err)
		}
		if err == nil {
			c.beats = beat
		}
		return err
	})
}

// look returns how far a sandbox has counted, if all that is in it is as it was. Of what is not, the error begins with "it".
func (c *cycles) look(ctx context.Context, id string) (beat int, err error) {
	got, err := c.client.Exec(ctx, id, wrenn.ExecRequest{Shell: look})
	if err != nil {
		return 0, err
	}
	sums, ok := strings.CutPrefix(got.Stdout, c.sums)
	var seconds int64
	if _, err := fmt.Sscan(sums, &beat, &seconds); got.ExitCode != 0 || !ok || err != nil {
		return 0, fmt.Errorf("it holds\n%s%s, and it held\n%s", got.Stdout, got.Stderr, c.sums)
	}
	if beat < c.beats {
		return 0, fmt.Errorf("it has counted to %d, and to %d before", beat, c.beats)
	}
	return beat, nil
}

// change changes a part of what is in it.
func (c *cycles) change() {
	c.t.Helper()
	c.sums = c.shell(c.id, fmt.Sprintf(change, c.random.IntN(parts)))
}

// checkLeaks holds that the host has no more than what one sandbox that runs takes.
func (c *cycles) checkLeaks() {
	c.t.Helper()
	if n := len(c.processes()); n != 1 {
		c.t.Errorf("there are %d VMMs", n)
	}
	for pattern, want := range map[string]int{"sandboxes/sb-*": 1, "sandboxes/.*": 0, "forks/*": 0, "forks/.*": 0, "intents/*": 0, "sandboxes/sb-*/snapshots/*": 1} {
		if found := c.found(pattern); len(found) > want {
			c.t.Errorf("of %s there are %v", pattern, found)
		}
	}
	if n := len(c.devices()); n != 1 {
		c.t.Errorf("there are %d TAPs of sandboxes", n)
	}
	if n := c.openFiles(); n > mostOpen {
		c.t.Errorf("the agent has %d files open", n)
	}
}

// mostOpen is more than an agent with one sandbox has open.
const mostOpen = 100

func (c *cycles) openFiles() int {
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(c.agent.cmd.Process.Pid), "fd"))
	if err != nil {
		c.t.Fatal(err)
	}
	return len(open)
}

// held is what of the host is in use, for the log.
func (c *cycles) held() string {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.agent.cmd.Process.Pid), "status"))
	if err != nil {
		return err.Error()
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	rss, _, _ := strings.Cut(after, "\n")
	return fmt.Sprintf("the agent has %d files open and %s of memory; it has counted to %d", c.openFiles(), strings.TrimSpace(rss), c.beats)
}
