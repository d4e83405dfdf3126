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

// fetcher is a program in the sandbox: it fetches the page of each host, all at once, and says what came of it.
const fetcher = `
import socket, sys, threading
hosts = sys.argv[1:]
said = [""] * len(hosts)
def fetch(i):
    try:
        with socket.create_connection((hosts[i], 80), timeout=4) as s:
            s.send(b"GET / HTTP/1.0\r\n\r\n")
            said[i] = s.makefile().read().split("\n\n", 1)[1]
    except socket.gaierror:
        said[i] = "no name"
    except Exception:
        said[i] = "no way"
threads = [threading.Thread(target=fetch, args=(i,)) for i in range(len(hosts))]
for t in threads: t.start()
for t in threads: t.join()
print("\n".join(said))
`

// reader is one that reads a page that does not end, until nothing more comes.
const reader = `
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=10) as s:
    s.send(b"GET /ticks HTTP/1.0\r\n\r\n")
    try:
        while s.recv(1):
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
	p := start(t, with("WRENN_DNS", gatewayOfHost), with("WRENN_AGENT_METRICS_LISTEN", agentMetrics))
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
		gatewayOfHost: "no way", allowedServer: "no way", "allowed.example": "no name", "169.254.169.254": "no way",
	})
	p.setNetwork(id, wrenn.NetworkPolicy{Allow: []string{"allowed.example", "inside.example", "*.cdn.example"}})
	p.reaches(id, map[string]string{
		"allowed.example": "this is " + allowedServer, "x.cdn.example": "this is " + otherServer,
		"denied.example": "no name", "inside.example": "no name", "nothing.cdn.example": "no name",
		gatewayOfHost: "no way", forbidden: "no way",
	})
	if out := p.shell(id, "cat /etc/resolv.conf"); strings.Contains(out, gatewayOfHost) {
		t.Errorf("the guest asks %q", out)
	}
	first, second := p.background(id, "reader.py", "allowed.example"), p.background(id, "reader.py", "x.cdn.example")
	p.ticks(id, first, 3)
	p.ticks(id, second, 3)
	p.agentTells(`wrenn_agent_sandboxes{state="running"} 1`, `wrenn_agent_sandbox_memory_bytes 2.68435456e\+08`, `wrenn_agent_calls_total{call="CreateSandbox",outcome="ok"} 1`,
		`wrenn_agent_call_duration_seconds_count{call="SetNetworkPolicy"} [1-9][0-9]*`, `wrenn_agent_create_step_duration_seconds_count{step="boot_guest"} 1`,
		`wrenn_agent_network_refusals_total{rule="[a-z_-]+"} [1-9][0-9.e+]*`, `wrenn_agent_memory_bytes{kind="available"} [1-9].*`, `wrenn_agent_disk_bytes{kind="total"} [1-9].*`,
		`wrenn_agent_golden_snapshots 0`, `wrenn_agent_pool_vms 0`)

	p.agent.stop(syscall.SIGKILL)
	p.startAgent()
	p.waitReady()
	p.eventually("the sandbox can be used again", func(ctx context.Context) error {
		_, err := p.client.Exec(ctx, id, wrenn.ExecRequest{Shell: "true"})
		return err
	})
	p.ticks(id, first, 3)
	// Of what was asked before the kill the next change of policy keeps what is still allowed.
	p.setNetwork(id, wrenn.NetworkPolicy{Allow: []string{"*.cdn.example"}})
	p.eventually("the connection that is not allowed any more is cut", func(ctx context.Context) error {
		if text := p.outputOf(ctx, id, first); !strings.HasSuffix(text, "cut\n") {
			return fmt.Errorf("it has shown %q", text)
		}
		return nil
	})
	p.ticks(id, second, 3)
	p.reaches(id, map[string]string{
		"allowed.example": "no name", "x.cdn.example": "this is " + otherServer, "denied.example": "no name", gatewayOfHost: "no way",
	})
	p.setNetwork(id, wrenn.NetworkPolicy{Internet: wrenn.On, Deny: []string{forbidden, "denied.example"}})
	p.reaches(id, map[string]string{gatewayOfHost: "this is " + gatewayOfHost, "allowed.example": "this is " + allowedServer, "denied.example": "no name"})

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
