package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestFork: children go on where their parent is, as sandboxes of their own, and so does the parent, whether it runs or sleeps; whoever is killed meanwhile, there are all of
// them or none.
func TestFork(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	p.shell(id, "echo of-the-parent > mark; "+counting)
	beat := p.beat(id)
	seen := map[string]string{}
	before := time.Now()
	children := p.fork(id, 2)
	p.lives(id, beat, before)
	p.differs(id, seen)
	for _, c := range children {
		if c.State != wrenn.Running || c.ParentID != id || c.Resumed == nil || !step(&c, "resume_guest") {
			t.Errorf("a child is %+v", c)
		}
		p.lives(c.ID, beat, before)
		p.differs(c.ID, seen)
		p.shell(c.ID, "echo "+c.ID+" > mine")
	}
	for _, sb := range []string{id, children[0].ID, children[1].ID} {
		want := "of-the-parent\n" + strings.TrimPrefix(sb, id) // a child has written its name
		if out := p.shell(sb, "cat mark; cat mine 2>/dev/null || true"); strings.TrimSpace(out) != strings.TrimSpace(want) {
			t.Errorf("%s has %q on its disk", sb, out)
		}
	}
	p.destroy(children[1].ID)

	p.killedForking(children[0].ID)
	beat = p.beat(children[0].ID)
	p.sleepBeside(children[0].ID)
	grandchild := p.fork(children[0].ID, 1)[0]
	p.differs(grandchild.ID, seen)
	p.lives(grandchild.ID, beat, time.Now())
	if sb, err := p.client.GetSandbox(p.context(), children[0].ID); err != nil || sb.State != wrenn.Paused {
		t.Errorf("a parent that slept is %+v, %v", sb, err)
	}
}

// lives waits until the process of counting has come beyond before, with a clock that is right, which takes a moment where many guests share few processors.
func (p *platform) lives(id string, before int, since time.Time) {
	p.t.Helper()
	p.eventually("it goes on", func(context.Context) error {
		count, at := p.heart(id)
		if count <= before || at.Before(since.Add(-2*time.Second)) || at.After(time.Now().Add(2*time.Second)) {
			return fmt.Errorf("%s counted to %d, and to %d before; at %s it is %s there", id, count, before, time.Now(), at)
		}
		return nil
	})
}

func (p *platform) fork(id string, count int) []wrenn.Sandbox {
	p.t.Helper()
	children, err := p.client.ForkSandbox(p.context(), id, wrenn.ForkRequest{Count: count})
	if err != nil || len(children) != count {
		p.t.Fatalf("fork: %+v, %v", children, err)
	}
	return children
}

// killedForking kills the agent while a running sandbox stands still, or while children of it are being made. Then there are none, and it goes on.
func (p *platform) killedForking(id string) {
	p.t.Helper()
	before := p.running()
	beat := p.beat(id)
	ended := make(chan error, 1)
	go func() {
		_, err := p.client.ForkSandbox(p.context(), id, wrenn.ForkRequest{Count: 2})
		ended <- err
	}()
	p.eventually("the fork is under way", func(context.Context) error {
		if len(p.found("forks/.fork-*/vmstate")) == 0 && len(ended) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.waitReady()
	err := <-ended
	p.eventually("there are all children or none, and nothing else", func(context.Context) error {
		now, folders := p.running(), p.found("sandboxes/sb-*")
		if now != before && now != before+2 || len(folders) != now || len(p.processes()) != now || (err == nil) != (now == before+2) {
			return fmt.Errorf("%d run, of %d before; fork: %w; folders %v, %v", now, before, err, folders, p.processes())
		}
		return nil
	})
	p.lives(id, beat, time.Now())
	p.t.Logf("the agent was killed during a fork: %v", err)
}

// running counts the sandboxes that are there.
func (p *platform) running() (n int) {
	p.t.Helper()
	for sb, err := range p.client.AllSandboxes(p.context(), wrenn.ListOptions{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		if sb.State != wrenn.Running {
			return -1
		}
		n++
	}
	return n
}

// TestSnapshot: a snapshot outlives its sandbox, and sandboxes are created from it that go on where that was; one that is damaged makes none.
func TestSnapshot(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	p.shell(id, "echo kept > mark; "+counting)
	beat := p.beat(id)
	kept, err := p.client.CreateSnapshot(p.context(), id, "before")
	if err != nil || kept.State != wrenn.SnapshotReady || kept.SandboxID != id || kept.Bytes == 0 {
		t.Fatalf("snapshot: %+v, %v", kept, err)
	}
	seen := map[string]string{}
	p.differs(id, seen)
	p.shell(id, "echo changed > mark")
	p.sleepBeside(id)
	asleep, err := p.client.CreateSnapshot(p.context(), id, "asleep")
	if err != nil || asleep.ParentID != kept.ID {
		t.Fatalf("snapshot of one that sleeps: %+v, %v", asleep, err)
	}
	p.destroy(id)
	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.waitReady()
	for snapshot, mark := range map[*wrenn.Snapshot]string{kept: "kept\n", asleep: "changed\n"} {
		sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Snapshot: snapshot.ID, Env: map[string]string{"MINE": snapshot.Name}})
		if err != nil || sb.SnapshotID != snapshot.ID || sb.Resumed == nil || sb.Template != "minimal" {
			t.Fatalf("create from %s: %+v, %v", snapshot.Name, sb, err)
		}
		p.lives(sb.ID, beat, time.Now())
		p.differs(sb.ID, seen)
		if out := p.shell(sb.ID, "cat mark; echo $MINE"); out != mark+snapshot.Name+"\n" {
			t.Errorf("created from %s it has %q", snapshot.Name, out)
		}
		p.destroy(sb.ID)
	}
	p.damaged(asleep.ID)
	if err := p.client.DeleteSnapshot(p.context(), kept.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	if left := p.found("snapshots/snap-*"); len(left) != 1 {
		t.Errorf("of two snapshots, one of them deleted, there are %v", left)
	}
	if left := p.leftovers(); left != "" {
		t.Errorf("beside snapshots there is left:\n%s", left)
	}
}

// damaged cuts off the memory of a snapshot. Nothing is made of it then, and the API says why.
func (p *platform) damaged(id string) {
	p.t.Helper()
	if err := os.Truncate(p.found("snapshots/" + id + "/memory")[0], 4096); err != nil {
		p.t.Fatal(err)
	}
	if sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Snapshot: id}); wrenn.CodeOf(err) != wrenn.Precondition || !strings.Contains(err.Error(), "damaged") {
		p.t.Errorf("create from a damaged snapshot: %+v, %v", sb, err)
	}
	p.eventually("the API says that it is damaged", func(ctx context.Context) error {
		s, err := p.client.GetSnapshot(ctx, id)
		if err == nil && (s.State != wrenn.SnapshotFailed || !strings.Contains(s.StateReason, "memory")) {
			err = fmt.Errorf("it is %+v", s)
		}
		return err
	})
	for sb, err := range p.client.AllSandboxes(p.context(), wrenn.ListOptions{}) {
		if err != nil || sb.State != wrenn.Failed {
			p.t.Errorf("made of a damaged snapshot there is %+v, %v", sb, err)
		}
		p.destroy(sb.ID)
	}
}
