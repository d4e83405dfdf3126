package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestCreateExecFilesDestroy is the main job, in every template.
func TestCreateExecFilesDestroy(t *testing.T) {
	p := start(t)
	for template, probe := range map[string]string{
		"minimal":   "cat /etc/os-release",
		"python311": "python3 -c 'import sys; print(sys.version)' && python --version && pip --version",
		"node20":    "node -e 'console.log(process.version)' && npm --version",
	} {
		t.Run(template, func(t *testing.T) {
			sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{
				Template: template, MemoryMiB: 256, Name: "main job",
				Env: map[string]string{"GREETING": "hello"}, Metadata: map[string]string{"k": "v"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if sb.State != wrenn.Running || sb.Template != template || sb.Name != "main job" || sb.Metadata["k"] != "v" || sb.DiskMiB == 0 {
				t.Errorf("the new sandbox is %+v", sb)
			}
			if out := p.shell(sb.ID, probe); strings.TrimSpace(out) == "" {
				t.Errorf("%s wrote nothing", probe)
			}
			if out := p.shell(sb.ID, "echo $GREETING; id -un; hostname; pwd"); out != "hello\nuser\n"+sb.ID+"\n/home/user\n" {
				t.Errorf("environment, user, host name and folder are %q", out)
			}
			p.roundTrip(t, sb.ID)
			p.destroy(sb.ID)
			p.destroy(sb.ID) // again: the same answer
		})
	}
	if left := p.leftovers(); left != "" {
		t.Errorf("after all were destroyed there is left:\n%s", left)
	}
}

// roundTrip sends a file in and gets it out again.
func (p *platform) roundTrip(t *testing.T, id string) {
	t.Helper()
	content := make([]byte, 3<<20+17)
	rand.Read(content)
	written, err := p.client.WriteFile(p.context(), id, "/home/user/deep/er/blob", bytes.NewReader(content))
	if err != nil || written.Size != int64(len(content)) {
		t.Fatalf("write: %+v, %v", written, err)
	}
	if out := p.shell(id, "stat -c '%s %U' deep/er/blob"); out != fmt.Sprintf("%d user\n", len(content)) {
		t.Errorf("in the guest the file is %q", out)
	}
	body, err := p.client.ReadFile(p.context(), id, "/home/user/deep/er/blob")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	back, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(back, content) {
		t.Errorf("what came back is not what went in: %d bytes, %v", len(back), err)
	}
}

func TestExecTellsTheTruth(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	for _, c := range []struct {
		line             string
		code, signal     int
		stdout, stderr   string
		stdoutIsAtLeast  int
		truncated, timed bool
	}{
		{line: "echo out; echo err >&2; exit 7", code: 7, stdout: "out\n", stderr: "err\n"},
		{line: "kill -9 $$", code: 137, signal: 9},
		{line: "sleep 1000 & echo started", stdout: "started\n"}, // a child that stays does not hold the call
		{line: "printf 'a\\000b'", stdout: "a\x00b"},
		{line: "head -c 3000000 /dev/zero", stdoutIsAtLeast: 1 << 20, truncated: true},
	} {
		r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: c.line})
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if r.ExitCode != c.code || r.Signal != c.signal || r.StdoutTruncated != c.truncated || len(r.Stdout) < c.stdoutIsAtLeast {
			t.Errorf("%s: exit %d, signal %d, %d bytes, truncated %v", c.line, r.ExitCode, r.Signal, len(r.Stdout), r.StdoutTruncated)
		}
		if c.stdoutIsAtLeast == 0 && (r.Stdout != c.stdout || r.Stderr != c.stderr) {
			t.Errorf("%s wrote %q and %q", c.line, r.Stdout, r.Stderr)
		}
	}
	r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: "sleep 1000 & sleep 1000", Timeout: 1e9})
	if err != nil || !r.TimedOut {
		t.Errorf("a command past its time: %+v, %v", r, err)
	}
	p.eventually("no sleep of the timed-out tree is left", func(ctx context.Context) error {
		r, err := p.client.Exec(ctx, id, wrenn.ExecRequest{Shell: "ps -eo args | grep -c '^sleep 100[0]'"})
		if err == nil && strings.TrimSpace(r.Stdout) != "1" { // the daemonised one of the first table
			err = fmt.Errorf("%q sleeps are running", r.Stdout)
		}
		return err
	})
	p.destroy(id)
}

// rounds is how often TestManyRounds goes around.
const rounds = 50

// TestManyRounds: creating, using and destroying again and again leaves nothing behind.
func TestManyRounds(t *testing.T) {
	p := start(t)
	for i := range rounds {
		id := p.create("minimal").ID
		if out := p.shell(id, fmt.Sprintf("echo round %d", i)); out != fmt.Sprintf("round %d\n", i) {
			t.Fatalf("round %d wrote %q", i, out)
		}
		p.destroy(id)
	}
	if left := p.leftovers(); left != "" {
		t.Errorf("after %d rounds there is left:\n%s", rounds, left)
	}
}

// atOnce is how many sandboxes TestManyAtOnce has at the same time.
const atOnce = 8

func TestManyAtOnce(t *testing.T) {
	p := start(t)
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: "minimal", MemoryMiB: 128})
			if err != nil {
				t.Errorf("create %d: %v", i, err)
				return
			}
			r, err := p.client.Exec(p.context(), sb.ID, wrenn.ExecRequest{Shell: "hostname"})
			if err != nil || strings.TrimSpace(r.Stdout) != sb.ID {
				t.Errorf("sandbox %s says that it is %+v, %v", sb.ID, r, err)
			}
			if _, err := p.client.DestroySandbox(p.context(), sb.ID); err != nil {
				t.Errorf("destroy %s: %v", sb.ID, err)
			}
		})
	}
	wg.Wait()
	if left := p.leftovers(); left != "" {
		t.Errorf("after %d at once there is left:\n%s", atOnce, left)
	}
}

// TestExecInputAndStream: standard input reaches the program, output arrives while it runs, and a caller that
// goes away takes the program with it.
func TestExecInputAndStream(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	input := strings.Repeat("0123456789abcde\n", 20000)
	r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Cmd: "cat", Stdin: input})
	if err != nil || r.Stdout != input {
		t.Errorf("of %d bytes of input %d came back: %v", len(input), len(r.Stdout), err)
	}

	ctx, cancel := context.WithCancel(p.context())
	defer cancel()
	stream, err := p.client.ExecStream(ctx, id, wrenn.ExecRequest{Shell: "echo first; exec sleep 4242"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for event, err := range stream.Events() { // the sleep is still running
		if err != nil {
			t.Fatal(err)
		}
		if event.Kind == wrenn.Stdout {
			break
		}
	}
	if out := p.shell(id, "pgrep -xf 'sleep 4242' | wc -l"); out != "1\n" {
		t.Errorf("while it runs there are %q of it", out)
	}
	cancel()
	p.eventually("the program of a caller that went away has ended", func(ctx context.Context) error {
		r, err := p.client.Exec(ctx, id, wrenn.ExecRequest{Shell: "pgrep -xf 'sleep 4242' | wc -l"})
		if err == nil && r.Stdout != "0\n" {
			err = fmt.Errorf("there are %q of it", r.Stdout)
		}
		return err
	})
	p.destroy(id)
}
