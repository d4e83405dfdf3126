package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// fromThePool goes on from a platform with golden snapshots: VMs that were restored ahead become sandboxes that share nothing, whose clocks are right however long they waited; an agent
// that is killed leaves none of them.
func (p *platform) fromThePool(seen map[string]string) {
	p.t.Helper()
	p.agent.stop(syscall.SIGTERM)
	p.env = append(p.env, "WRENN_POOL_MIB=2048")
	p.startAgent()
	p.waitReady()
	p.destroy(p.create("minimal").ID)
	waiting := p.restoredAhead(1)
	for made := range 2 {
		time.Sleep(time.Until(waiting.Add(3 * time.Second))) // for its clock to be wrong, if it is not set
		sb := p.create("minimal")
		if !step(sb, "take_from_pool") || step(sb, "restore_vm") || step(sb, "boot_guest") || sb.Resumed == nil {
			p.t.Errorf("beside a VM that waits a sandbox was made by the steps %+v, with the certificate %+v", sb.Timings, sb.Resumed)
		}
		p.onTime(sb.ID)
		p.differs(sb.ID, seen)
		if name := strings.TrimSpace(p.shell(sb.ID, "hostname")); name != sb.ID {
			p.t.Errorf("%s says that it is %s", sb.ID, name)
		}
		if out, err := p.client.PauseSandbox(p.context(), sb.ID); err != nil {
			p.t.Errorf("pause: %+v, %v", out, err)
		}
		p.onTime(sb.ID) // which wakes it
		waiting = p.restoredAhead(made + 2)
	}
	sandboxes, err := p.client.ListSandboxes(p.context(), wrenn.ListOptions{States: []wrenn.State{wrenn.Running, wrenn.Paused}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.eventually("of the VMs that waited nothing is left", func(context.Context) error {
		if n := len(sandboxes.Items); len(p.found("sandboxes/sb-*")) != n || len(p.processes()) > n || len(p.devices()) != n {
			return fmt.Errorf("beside %d sandboxes there is %v, with %v and %v", n, p.found("sandboxes/sb-*"), p.processes(), p.devices())
		}
		return nil
	})
}

// restoredAhead waits until the agent has restored so many VMs ahead since it was started, and returns when that was.
func (p *platform) restoredAhead(count int) time.Time {
	p.t.Helper()
	p.eventually("a VM waits for a sandbox", func(context.Context) error {
		p.agent.mu.Lock()
		defer p.agent.mu.Unlock()
		if strings.Count(p.agent.out.String(), "a VM was restored ahead") < count {
			return errors.New("not yet")
		}
		return nil
	})
	return time.Now()
}

// onTime fails the test where the clock of a sandbox is wrong.
func (p *platform) onTime(id string) {
	p.t.Helper()
	before := time.Now().Unix()
	now, err := strconv.ParseInt(strings.TrimSpace(p.shell(id, "date +%s")), 10, 64)
	if after := time.Now().Unix(); err != nil || now < before-1 || now > after+1 {
		p.t.Errorf("between %d and %d it is %d in %s, %v", before, after, now, id, err)
	}
}
