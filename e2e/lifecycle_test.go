package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestLifecycle is the life of a sandbox that is left alone: it falls asleep, also when the control plane was killed meanwhile, but not while somebody waits for
// a program in it; a request wakes it, everything in it goes on, and its timeout ends it.
func TestLifecycle(t *testing.T) {
	p := start(t)
	idle := 5 * time.Second
	sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: "minimal", Lifecycle: &wrenn.LifecycleChange{AutoPauseAfter: &idle}})
	if err != nil {
		t.Fatal(err)
	}
	p.shell(sb.ID, counting)
	beat := p.beat(sb.ID)
	p.shell(sb.ID, "sleep 15") // longer than it may be idle: nothing of it happens on the way
	if events, err := p.client.Events(p.context(), sb.ID); err != nil || events[len(events)-1].To != wrenn.Running {
		t.Errorf("with a program that is waited for it went through %+v, %v", events, err)
	}
	p.control.stop(syscall.SIGKILL)
	p.control = p.spawn("control-plane", "serve")
	p.waitReady()
	slept := p.becomes(sb.ID, wrenn.Paused)
	if slept.StateReason != "nobody used it for 5s" || len(p.processes()) > 0 {
		t.Errorf("it is paused because of %q; processes %v", slept.StateReason, p.processes())
	}
	p.goesOn(sb.ID, beat, slept.UpdatedAt)

	if _, err := p.client.SetTimeout(p.context(), sb.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if gone := p.becomes(sb.ID, wrenn.Stopped); gone.StateReason != "its timeout of 1s has ended" {
		t.Errorf("it has ended because of %q", gone.StateReason)
	}
	if left := p.leftovers(); left != "" {
		t.Errorf("it leaves:\n%s", left)
	}
}

// becomes waits until a sandbox is in a state.
func (p *platform) becomes(id string, want wrenn.State) *wrenn.Sandbox {
	p.t.Helper()
	var now *wrenn.Sandbox
	p.eventually(fmt.Sprintf("%s is %s", id, want), func(ctx context.Context) (err error) {
		if now, err = p.client.GetSandbox(ctx, id); err == nil && now.State != want {
			err = fmt.Errorf("it is %s: %s", now.State, now.StateReason)
		}
		return err
	})
	return now
}
