package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestAgentKilledAndRestarted: kill -9 of the agent during a create and during an exec. What ran goes on and
// can be used, what was half made is removed, and the API says what happened.
func TestAgentKilledAndRestarted(t *testing.T) {
	p := start(t)
	keeper := p.create("minimal")
	p.shell(keeper.ID, "nohup sh -c 'while :; do date +%s%N > beat; sleep 0.2; done' >/dev/null 2>&1 & echo $! > pid")

	execEnded := make(chan error, 1)
	go func() {
		_, err := p.client.Exec(p.context(), keeper.ID, wrenn.ExecRequest{Shell: "sleep 1000"})
		execEnded <- err
	}()
	createEnded := make(chan error, 1)
	go func() {
		_, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: "minimal", MemoryMiB: 256, Name: "half made"})
		createEnded <- err
	}()
	half := p.awaitVMM("half made")
	p.agent.stop(syscall.SIGKILL)
	if err := <-execEnded; err == nil {
		t.Error("an exec whose agent was killed reported success")
	}
	if len(p.processes()) == 0 {
		t.Error("the VMs died with the agent")
	}

	p.startAgent()
	p.waitReady()
	if err := <-createEnded; err == nil {
		t.Error("a create whose agent was killed reported success")
	}
	p.eventually("the half-made sandbox is in an end state that says why", func(ctx context.Context) error {
		sb, err := p.client.GetSandbox(ctx, half)
		if err == nil && (sb.State != wrenn.Failed || sb.StateReason == "") {
			err = fmt.Errorf("it is %s because of %q", sb.State, sb.StateReason)
		}
		return err
	})
	if got, err := p.client.GetSandbox(p.context(), keeper.ID); err != nil || got.State != wrenn.Running {
		t.Fatalf("the sandbox that ran is now %+v, %v", got, err)
	}
	first := p.shell(keeper.ID, "cat beat")
	p.eventually("the process in the sandbox goes on", func(ctx context.Context) error {
		r, err := p.client.Exec(ctx, keeper.ID, wrenn.ExecRequest{Shell: "kill -0 $(cat pid) && cat beat"})
		if err == nil && (r.ExitCode != 0 || r.Stdout == first) {
			err = fmt.Errorf("its heart beats no more: %+v", r)
		}
		return err
	})
	p.restartInPeace(keeper.ID)
	p.destroy(keeper.ID)
	p.destroy(half)
	p.eventually("nothing is left", func(context.Context) error {
		if left := p.leftovers(); left != "" {
			return fmt.Errorf("there is left: %s", left)
		}
		return nil
	})
}

// restartInPeace ends the agent while the control plane keeps a connection to a guest that nobody uses. It must not wait for that.
func (p *platform) restartInPeace(id string) {
	p.t.Helper()
	p.shell(id, "true")
	p.agent.stop(syscall.SIGTERM)
	if said := p.agent.tail(); strings.Contains(said, "broken off") {
		p.t.Errorf("connections that nobody uses held up the agent's end:\n%s", said)
	}
	p.startAgent()
	p.waitReady()
	p.shell(id, "true")
}

// awaitVMM waits until the VMM of the sandbox with that name runs, and returns the sandbox's id.
func (p *platform) awaitVMM(name string) string {
	p.t.Helper()
	var id string
	p.eventually("the VMM of "+name+" runs", func(ctx context.Context) error {
		page, err := p.client.ListSandboxes(ctx, wrenn.ListOptions{})
		if err != nil {
			return err
		}
		for _, sb := range page.Items {
			if sb.Name == name && strings.Contains(p.commands(), sb.ID) {
				id = sb.ID
				return nil
			}
		}
		return fmt.Errorf("no VMM yet")
	})
	return id
}

// commands joins the command lines of this platform's VMMs, which name their sandboxes.
func (p *platform) commands() string {
	var all strings.Builder
	for _, found := range p.processes() {
		text, err := os.ReadFile(filepath.Join("/proc", strings.TrimPrefix(found, "process "), "cmdline"))
		if err == nil {
			all.Write(text)
		}
	}
	return all.String()
}

// TestVMMKilled: a VM that dies by itself is reported as such, can be destroyed, and takes nobody else with it.
func TestVMMKilled(t *testing.T) {
	p := start(t)
	victim := p.create("minimal").ID
	pids := p.processes()
	if len(pids) != 1 {
		t.Fatalf("one sandbox has the processes %v", pids)
	}
	other := p.create("minimal").ID
	var pid int
	if _, err := fmt.Sscanf(pids[0], "process %d", &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.eventually("the sandbox is in error, with a reason", func(ctx context.Context) error {
		sb, err := p.client.GetSandbox(ctx, victim)
		if err == nil && (sb.State != wrenn.Failed || sb.StateReason == "") {
			err = fmt.Errorf("it is %s because of %q", sb.State, sb.StateReason)
		}
		return err
	})
	_, err := p.client.Exec(p.context(), victim, wrenn.ExecRequest{Shell: "true"})
	if wrenn.CodeOf(err) != "precondition" {
		t.Errorf("exec in a dead sandbox: %v", err)
	}
	p.shell(other, "true")
	p.destroy(victim)
	p.destroy(other)
}

// TestGuestPoweroff: a guest that ends itself is not restarted and not leaked.
func TestGuestPoweroff(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	_, _ = p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: "echo b > /proc/sysrq-trigger", User: "root"}) // the connection breaks
	p.eventually("the sandbox is in error", func(ctx context.Context) error {
		sb, err := p.client.GetSandbox(ctx, id)
		if err == nil && sb.State != wrenn.Failed {
			err = fmt.Errorf("it is %s", sb.State)
		}
		return err
	})
	p.destroy(id)
}

// TestFailedBootSaysWhy: the error of the API and the log hold the guest's own last words.
func TestFailedBootSaysWhy(t *testing.T) {
	images := t.TempDir()
	brokenImage(t, filepath.Join(images, "broken"))
	p := start(t, with("WRENN_IMAGES", images))
	_, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: "broken", Name: "broken", MemoryMiB: 256})
	if err == nil || !strings.Contains(err.Error(), "anic") {
		t.Errorf("a guest without a file system failed with %v, want the kernel's panic", err)
	}
	page, err := p.client.ListSandboxes(p.context(), wrenn.ListOptions{})
	if err != nil || len(page.Items) != 1 || page.Items[0].State != wrenn.Failed || !strings.Contains(page.Items[0].StateReason, "anic") {
		t.Fatalf("the list shows %+v, %v", page, err)
	}
	if log, err := p.client.Logs(p.context(), page.Items[0].ID); err != nil || !strings.Contains(log, "anic") {
		t.Errorf("its console is %q, %v", log, err)
	}
	p.destroy(page.Items[0].ID)
	if left := p.leftovers(); left != "" {
		t.Errorf("after a failed boot there is left:\n%s", left)
	}
}

// brokenImage makes the image of a template whose disk holds no file system.
func brokenImage(t *testing.T, dir string) {
	t.Helper()
	const mib = 8
	manifest := fmt.Sprintf(`{"name": "broken", "digest": "sha256:00000000", "disk_mib": %d, "default_user": "user"}`, mib)
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(manifest), 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rootfs.ext4"), make([]byte, mib<<20), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestControlPlaneKilled: kill -9 of the control plane during a create leaves nothing in between.
func TestControlPlaneKilled(t *testing.T) {
	p := start(t)
	createEnded := make(chan error, 1)
	go func() {
		_, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: "minimal", MemoryMiB: 256, Name: "cut off"})
		createEnded <- err
	}()
	id := p.awaitVMM("cut off")
	p.control.stop(syscall.SIGKILL)
	if err := <-createEnded; err == nil {
		t.Error("a create whose control plane was killed reported success")
	}
	p.control = p.spawn("control-plane", "serve")
	p.waitReady()
	p.eventually("the sandbox is running or in error", func(ctx context.Context) error {
		sb, err := p.client.GetSandbox(ctx, id)
		if err == nil && sb.State != wrenn.Running && sb.State != wrenn.Failed {
			err = fmt.Errorf("it is %s until %s", sb.State, sb.StateDeadline)
		}
		return err
	})
	p.destroy(id)
	p.eventually("nothing is left", func(context.Context) error {
		if left := p.leftovers(); left != "" {
			return fmt.Errorf("there is left: %s", left)
		}
		return nil
	})
}
