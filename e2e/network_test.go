package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// fetcher is a program in the sandbox: it fetches each URL, or connects to each host:port, and says what came of it.
const fetcher = `
import socket, sys, urllib.request
for target in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(target, timeout=4).read().decode())
    except Exception as error:
        cause = getattr(error, "reason", error)
        print("no name" if isinstance(cause, socket.gaierror) else "no way")
`

// reader is one that reads a page that does not end, until nothing more comes.
const reader = `
import sys, urllib.request
page = urllib.request.urlopen(sys.argv[1], timeout=15)
try:
    while page.readline():
        print(".", end="", flush=True)
except Exception:
    pass
print("cut", flush=True)
`

// knocker is one that tries a destination again and again for as long as the sandbox lives.
const knocker = `
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 80), timeout=0.5) as s:
            s.send(b"GET / HTTP/1.0\r\n\r\n")
    except Exception:
        pass
    time.sleep(0.2)
`

// TestNetworkPolicyWholeWay: what a sandbox may reach is what its policy says, from its first packet on, while the policy changes and while the
// agent is killed and comes back; and its user can read what was refused.
func TestNetworkPolicyWholeWay(t *testing.T) {
	p := start(t, with("WRENN_DNS", gatewayOfHost))
	w := newWorld(t, p)
	sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{
		Template: "python311", MemoryMiB: 256, Network: &wrenn.NetworkPolicy{Internet: wrenn.Off},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := sb.ID
	p.write(id, "probe.py", fetcher)
	p.write(id, "reader.py", reader)
	p.write(id, "knocker.py", knocker)
	p.background(id, "knocker.py", forbidden)

	p.reaches(id, map[string]string{
		"http://" + gatewayOfHost: "no way", "http://" + allowedServer: "no way", "http://allowed.example": "no name", "http://169.254.169.254": "no way",
	})
	p.setNetwork(id, wrenn.NetworkPolicy{Allow: []string{"allowed.example", "inside.example", "*.cdn.example"}})
	p.reaches(id, map[string]string{
		"http://allowed.example": "this is " + allowedServer, "http://x.cdn.example": "this is " + otherServer,
		"http://denied.example": "no name", "http://inside.example": "no name", "http://nothing.cdn.example": "no name",
		"http://" + gatewayOfHost: "no way", "http://" + forbidden: "no way",
	})
	if out := p.shell(id, "cat /etc/resolv.conf"); strings.Contains(out, gatewayOfHost) {
		t.Errorf("the guest asks %q", out)
	}
	first, second := p.background(id, "reader.py", "http://allowed.example/ticks"), p.background(id, "reader.py", "http://x.cdn.example/ticks")
	p.ticks(id, first, 3)
	p.ticks(id, second, 3)

	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.waitReady()
	p.eventually("the sandbox can be used again", func(ctx context.Context) error {
		_, err := p.client.Exec(ctx, id, wrenn.ExecRequest{Shell: "true"})
		return err
	})
	p.ticks(id, first, 3)
	// A change of policy keeps what was asked for since the agent's start: docs/adr/0009.
	p.reaches(id, map[string]string{
		"http://allowed.example": "this is " + allowedServer, "http://x.cdn.example": "this is " + otherServer,
		"http://denied.example": "no name", "http://" + gatewayOfHost: "no way",
	})

	p.setNetwork(id, wrenn.NetworkPolicy{Allow: []string{"*.cdn.example"}})
	p.eventually("the connection that is not allowed any more is cut", func(ctx context.Context) error {
		if text := p.outputOf(ctx, id, first); !strings.HasSuffix(text, "cut\n") {
			return fmt.Errorf("it has shown %q", text)
		}
		return nil
	})
	p.ticks(id, second, 3)
	p.setNetwork(id, wrenn.NetworkPolicy{Internet: wrenn.On, Deny: []string{forbidden, "denied.example"}})
	p.reaches(id, map[string]string{"http://" + gatewayOfHost: "this is " + gatewayOfHost, "http://allowed.example": "this is " + allowedServer, "http://denied.example": "no name"})

	p.refusalsTell(id)
	if n := w.reached(forbidden); n != 0 {
		t.Errorf("what was never allowed was reached %d times", n)
	}
	p.destroy(id)
}

// refusalsTell holds the journal against what the test did.
func (p *platform) refusalsTell(id string) {
	p.t.Helper()
	state, err := p.client.Network(p.context(), id)
	if err != nil || !state.InForce || state.Policy.Generation != 4 || state.Counters.SentPackets == 0 || len(state.Counters.DroppedPackets) == 0 {
		p.t.Errorf("%+v, %v", state, err)
	}
	rules := map[string]bool{}
	for _, want := range []wrenn.NetworkRefusal{
		{Protocol: "tcp", Address: forbidden, Port: 80, Rule: "internet"},
		{Protocol: "tcp", Address: forbidden, Port: 80, Rule: "denied"},
		{Protocol: "tcp", Address: "169.254.169.254", Port: 80, Rule: "link_local"},
		{Protocol: "dns", Name: "denied.example", Rule: "name_not_allowed"},
		{Protocol: "dns", Name: "denied.example", Rule: "name_denied"},
		{Protocol: "dns", Name: "inside.example", Rule: "name_leads_inside"},
	} {
		rules[want.Rule] = true
		p.eventually("the journal has "+want.Rule, func(ctx context.Context) error {
			journal, err := p.client.NetworkRefusals(ctx, id)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(journal.Items, func(r wrenn.NetworkRefusal) bool {
				return r.Protocol == want.Protocol && r.Address == want.Address && r.Port == want.Port && r.Name == want.Name && r.Rule == want.Rule && r.Why != "" && r.Count > 0
			}) {
				return fmt.Errorf("it has %+v, and not %+v", journal.Items, want)
			}
			return nil
		})
	}
	cmd := exec.CommandContext(p.context(), filepath.Join(binaries, "wrenn"), "net", id)
	cmd.Env = append(p.env, "WRENN_URL="+p.url, "WRENN_API_KEY="+p.key)
	shown, err := cmd.CombinedOutput()
	for rule := range rules {
		if err != nil || !strings.Contains(string(shown), rule) {
			p.t.Errorf("wrenn net does not show %s: %v\n%s", rule, err, shown)
		}
	}
}

func (p *platform) setNetwork(id string, change wrenn.NetworkPolicy) {
	p.t.Helper()
	if _, err := p.client.SetNetwork(p.context(), id, change); err != nil {
		p.t.Fatalf("set the network policy: %v", err)
	}
}

// reaches probes each target from within the sandbox.
func (p *platform) reaches(id string, want map[string]string) {
	p.t.Helper()
	var targets []string
	for target := range want {
		targets = append(targets, target)
	}
	lines := strings.Split(p.shell(id, "python3 probe.py "+strings.Join(targets, " ")), "\n")
	for i, target := range targets {
		if i >= len(lines) || lines[i] != want[target] {
			p.t.Errorf("%s: want %q, got %q", target, want[target], lines)
		}
	}
}

func (p *platform) write(id, name, content string) {
	p.t.Helper()
	p.shell(id, "cat > "+name+" <<'END'\n"+content+"\nEND")
}

// background starts a program of Python and returns where its output goes.
func (p *platform) background(id, program, argument string) (output string) {
	p.t.Helper()
	output = "out-" + strings.Map(func(r rune) rune {
		if strings.ContainsRune(":/.", r) {
			return '_'
		}
		return r
	}, argument)
	_, err := p.client.StartProcess(p.context(), id, wrenn.ProcessRequest{Shell: "exec python3 " + program + " " + argument + " > " + output + " 2>&1"})
	if err != nil {
		p.t.Fatalf("start %s: %v", program, err)
	}
	return output
}

func (p *platform) outputOf(ctx context.Context, id, output string) string {
	p.t.Helper()
	result, err := p.client.Exec(ctx, id, wrenn.ExecRequest{Shell: "cat " + output})
	if err != nil {
		p.t.Fatalf("read %s: %v", output, err)
	}
	return result.Stdout
}

// ticks waits until a reader has read some more.
func (p *platform) ticks(id, output string, more int) {
	p.t.Helper()
	before := -1
	p.eventually(output+" goes on", func(ctx context.Context) error {
		text := p.outputOf(ctx, id, output)
		if strings.Contains(text, "cut") || strings.Contains(text, "Error") {
			p.t.Fatalf("%s has ended: %.300q", output, text)
		}
		if before < 0 {
			before = len(text)
		}
		if len(text) < before+more {
			return fmt.Errorf("it has read %d", len(text))
		}
		return nil
	})
}
