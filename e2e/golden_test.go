package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// selves prints what tells a guest from others: names, addresses and random numbers of several sources.
const selves = `cat /etc/machine-id; hostname; cat /sys/class/net/eth0/address; hostname -I; cat /proc/sys/kernel/random/uuid; head -c16 /dev/urandom | od -An -tx1; mktemp -u`

// TestGolden: the first sandbox of a template boots, the next ones are made from a snapshot of it and share nothing that is their own. The agent may be killed while it makes
// the snapshot, and the sandboxes sleep, wake and are reached through the network like others.
func TestGolden(t *testing.T) {
	p := start(t, with("WRENN_GOLDEN_MIB", "2048"), with("WRENN_POOL_MIB", "0"))
	first := p.create("minimal")
	if !step(first, "boot_guest") {
		t.Errorf("the first sandbox was made by the steps %+v", first.Timings)
	}
	p.eventually("a golden snapshot is being made", func(context.Context) error {
		if folders := p.found("sandboxes/sb-*"); len(folders) < 2 && len(p.found("golden/golden-*/manifest.json")) == 0 {
			return fmt.Errorf("there is %v", folders)
		}
		return nil
	})
	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.eventually("of what was half made nothing is left", func(context.Context) error {
		if folders := p.found("sandboxes/sb-*"); len(folders) != 1 || len(p.processes()) != 1 {
			return fmt.Errorf("there is %v, with %v", folders, p.processes())
		}
		return nil
	})
	p.waitReady()
	second := p.create("minimal")
	p.eventually("there is a golden snapshot", func(context.Context) error {
		if len(p.found("golden/golden-*/manifest.json")) == 0 || len(p.processes()) > 2 {
			return errors.New("not yet")
		}
		return nil
	})
	seen := map[string]string{}
	p.differs(first.ID, seen)
	p.differs(second.ID, seen)
	var clone *wrenn.Sandbox
	for range 2 {
		clone = p.create("minimal")
		if !step(clone, "restore_vm") || !step(clone, "resume_guest") || clone.Resumed == nil {
			t.Errorf("a sandbox of a template that has a golden snapshot was made by the steps %+v, with the certificate %+v", clone.Timings, clone.Resumed)
		}
		p.differs(clone.ID, seen)
		if at := strings.TrimSpace(p.shell(clone.ID, "date +%s")); at < fmt.Sprint(time.Now().Add(-5*time.Second).Unix()) || at > fmt.Sprint(time.Now().Add(5*time.Second).Unix()) {
			t.Errorf("at %s it is %s there", time.Now(), at)
		}
	}
	p.shell(clone.ID, "echo mine > mine")
	p.sleepBeside(clone.ID)
	if out := p.shell(clone.ID, "cat mine; hostname"); out != "mine\n"+clone.ID+"\n" {
		t.Errorf("after its sleep it says %q", out)
	}
	p.fromThePool(seen)
}

func step(sb *wrenn.Sandbox, name string) bool {
	return slices.ContainsFunc(sb.Timings, func(t wrenn.Timing) bool { return t.Step == name })
}

// found lists what a pattern finds in the agent's folder, which may be a volume.
func (p *platform) found(pattern string) []string {
	one, _ := filepath.Glob(filepath.Join(p.dir, "data", pattern)) // the pattern is well formed
	other, _ := filepath.Glob(filepath.Join(p.dir, "data/volume", pattern))
	return append(one, other...)
}

// differs fails the test where a sandbox has something of its own that another has too.
func (p *platform) differs(id string, seen map[string]string) {
	p.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(p.shell(id, selves)), "\n") {
		line = strings.TrimSpace(line)
		if other := seen[line]; other != "" {
			p.t.Errorf("%s and %s both have %s", other, id, line)
		}
		seen[line] = id
	}
}

// sleepBeside pauses a sandbox while others run. The next request wakes it.
func (p *platform) sleepBeside(id string) {
	p.t.Helper()
	if sb, err := p.client.PauseSandbox(p.context(), id); err != nil || sb.State != wrenn.Paused {
		p.t.Fatalf("pause: %+v, %v", sb, err)
	}
}
