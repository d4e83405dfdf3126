package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// counting counts in the memory of a process, for ever.
const counting = `nohup sh -c 'i=0; while :; do i=$((i+1)); echo $i $(date +%s) > beat; sleep 0.1; done' >/dev/null 2>&1 & echo $! > pid`

// TestSleep is the life of a sandbox that sleeps: its memory is given back and everything in it goes on, also after the agent was killed while it slept
// and while it fell asleep; a request wakes it; a hook that fails leaves it asleep as it was; destroyed in its sleep, it leaves nothing.
func TestSleep(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	content := bytes.Repeat([]byte("kept\n"), 1<<16)
	if _, err := p.client.WriteFile(p.context(), id, "/home/user/blob", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	p.shell(id, counting)
	beat := p.beat(id)

	p.brokenOff(id)
	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.waitReady()
	if sb, err := p.client.GetSandbox(p.context(), id); err != nil || sb.State != wrenn.Paused {
		t.Fatalf("after its agent was killed it is %+v, %v", sb, err)
	}
	slept := time.Now()
	sb, err := p.client.ResumeSandbox(p.context(), id)
	if err != nil || sb.State != wrenn.Running || sb.Resumed == nil {
		t.Fatalf("resume: %+v, %v", sb, err)
	}
	p.goesOn(id, beat, slept)
	if out := p.shell(id, "cmp blob /dev/stdin < /dev/null 2>&1; stat -c %s blob; hostname"); !strings.HasSuffix(out, fmt.Sprintf("%d\n%s\n", len(content), id)) {
		t.Errorf("its file and its name: %q", out)
	}

	beat = p.beat(id)
	p.killedFallingAsleep(id)
	slept = time.Now()
	p.goesOn(id, beat, slept) // the first request wakes it, if it sleeps

	p.root(id, `mkdir -p /etc/wrenn/resume.d; printf '#!/bin/sh\necho tired\nexit 7\n' > /etc/wrenn/resume.d/10-tired; chmod 755 /etc/wrenn/resume.d/10-tired`)
	p.sleep(id)
	if _, err := p.client.ResumeSandbox(p.context(), id); wrenn.CodeOf(err) != wrenn.Unavailable || !strings.Contains(err.Error(), "10-tired") {
		t.Errorf("a hook that fails: %v", err)
	}
	if sb, err := p.client.GetSandbox(p.context(), id); err != nil || sb.State != wrenn.Paused || !strings.Contains(sb.StateReason, "10-tired") || len(p.processes()) > 0 {
		t.Errorf("then it is %+v, %v; processes %v", sb, err, p.processes())
	}
	p.destroy(id)
	if left := p.leftovers(); left != "" {
		t.Errorf("destroyed in its sleep it leaves:\n%s", left)
	}
}

// sleep pauses a sandbox, whose VMM must be gone then.
func (p *platform) sleep(id string) {
	p.t.Helper()
	sb, err := p.client.PauseSandbox(p.context(), id)
	if err != nil || sb.State != wrenn.Paused {
		p.t.Fatalf("pause: %+v, %v", sb, err)
	}
	if left := p.processes(); len(left) > 0 {
		p.t.Errorf("a paused sandbox has %v", left)
	}
}

// root runs a command line as root.
func (p *platform) root(id, line string) {
	p.t.Helper()
	if r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: line, User: "root"}); err != nil || r.ExitCode != 0 {
		p.t.Fatalf("%q: %+v, %v", line, r, err)
	}
}

// beat returns how far the process of counting has come.
func (p *platform) beat(id string) int {
	p.t.Helper()
	count, _ := p.heart(id)
	return count
}

func (p *platform) heart(id string) (count int, at time.Time) {
	p.t.Helper()
	var seconds int64
	if _, err := fmt.Sscan(p.shell(id, `kill -0 $(cat pid) && sleep 0.5 && until test -n "$beat"; do beat=$(cat beat); done && echo $beat`), &count, &seconds); err != nil {
		p.t.Fatalf("its heart: %v", err)
	}
	return count, time.Unix(seconds, 0)
}

// goesOn fails the test unless the same process counts on from before, and its clock is right.
func (p *platform) goesOn(id string, before int, since time.Time) {
	p.t.Helper()
	count, at := p.heart(id)
	if count <= before {
		p.t.Errorf("it counted to %d, and then to %d", before, count)
	}
	if at.Before(since.Add(-2*time.Second)) || at.After(time.Now().Add(2*time.Second)) {
		p.t.Errorf("at %s it is %s there", time.Now(), at)
	}
}

// killedFallingAsleep kills the agent while it makes a snapshot. Whether that ends as a pause or as none, the sandbox is whole, and the API says the same as the host.
func (p *platform) killedFallingAsleep(id string) {
	p.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := p.client.PauseSandbox(p.context(), id)
		ended <- err
	}()
	deadline := time.Now().Add(patience)
	for staged := false; !staged && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob(filepath.Join(p.dir, "data/volume/sandboxes", id, "snapshots/*.wrenn-tmp/vmstate"))
		more, _ := filepath.Glob(filepath.Join(p.dir, "data/sandboxes", id, "snapshots/*.wrenn-tmp/vmstate"))
		staged = len(found)+len(more) > 0
	}
	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.waitReady()
	err := <-ended
	sb, getErr := p.client.GetSandbox(p.context(), id)
	if getErr != nil || (sb.State != wrenn.Paused) != (err != nil) || sb.State != wrenn.Paused && sb.State != wrenn.Running {
		p.t.Fatalf("pause: %v; then it is %+v, %v", err, sb, getErr)
	}
	p.t.Logf("killed while it fell asleep it is %s", sb.State)
}

// brokenOff puts a sandbox to sleep while a request is under way in it, whose answer must not say that nothing was done.
func (p *platform) brokenOff(id string) {
	p.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := p.client.Exec(wrenn.WithIdempotencyKey(p.context(), ""), id, wrenn.ExecRequest{Shell: "echo begun > begun; sleep 1000"})
		ended <- err
	}()
	p.eventually("the program runs", func(ctx context.Context) error {
		_, err := p.client.StatFile(ctx, id, "/home/user/begun")
		return err
	})
	p.sleep(id)
	if err := <-ended; wrenn.CodeOf(err) != wrenn.Unavailable {
		p.t.Errorf("what was under way when it was put to sleep: %v", err)
	}
}
