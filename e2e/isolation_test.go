package e2e

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// probe is something that a program, as root in a sandbox, does with the network. Its token arrives somewhere outside the
// sandbox, or nowhere.
type probe struct {
	name    string
	does    string // Python, in the words of testdata/probe.py; `text` is what is sent
	arrives bool
}

// isolation is what a sandbox can do under the default policy. NET is the outside, and HOST the host's address there.
var isolation = []probe{
	{"UDP to the outside", "udp(NET, text)", true},
	{"TCP to the outside", "tcp(NET, text)", true},

	{"UDP to another sandbox", "udp(OTHER, text)", false},
	{"TCP to another sandbox", "tcp(OTHER, text)", false},
	{"fragments to another sandbox", "fragments(own_address(), OTHER, text)", false},
	{"another sandbox, as the host", "spoofed(gateway(), OTHER, text)", false},
	{"another sandbox, as itself", "spoofed(OTHER, OTHER, text)", false},
	{"another sandbox, by its gateway", "spoofed(OTHER_HOST, OTHER, text)", false},
	{"another sandbox, by a protocol without connections", "frame(ipv4(own_address(), OTHER, text, protocol=47))", false},
	{"another sandbox, by a source route", "frame(ipv4(own_address(), NET, datagram(text), options=b'\\x83\\x07\\x04' + socket.inet_aton(OTHER) + b'\\0'))", false},
	{"a frame to everybody", "frame(ipv4(own_address(), OTHER, datagram(text)), to=b'\\xff' * 6)", false},

	{"UDP to the gateway", "udp(gateway(), text)", false},
	{"TCP to the gateway", "tcp(gateway(), text)", false},
	{"UDP to the host's own address", "udp(HOST, text)", false},
	{"TCP to the host's own address", "tcp(HOST, text)", false},
	{"UDP to the gateway of another sandbox", "udp(OTHER_HOST, text)", false},
	{"TCP to the gateway of another sandbox", "tcp(OTHER_HOST, text)", false},
	{"the host's loopback", "spoofed(own_address(), '127.0.0.1', text)", false},
	{"the host, from its loopback", "spoofed('127.0.0.1', gateway(), text)", false},
	{"the host, as a neighbour of its uplink", "spoofed(NET, HOST, text)", false},

	{"UDP to the metadata service", "udp('169.254.169.254', text)", false},
	{"TCP to the metadata service", "tcp('169.254.169.254', text, port=80)", false},
	{"link-local", "udp('169.254.1.1', text)", false},
	{"multicast", "udp('224.0.0.251', text)", false},
	{"broadcast", "frame(ipv4(own_address(), '255.255.255.255', datagram(text)))", false},

	{"UDP to a private network", "udp('192.168.7.7', text)", false},
	{"UDP to a carrier's network", "udp('100.64.7.7', text)", false},
	{"UDP beyond the sandboxes' own", "udp('10.77.7.7', text)", false},

	{"the outside as another sandbox", "spoofed(OTHER, NET, text)", false},
	{"the outside as the host", "spoofed(HOST, NET, text)", false},
	{"the outside as a stranger", "spoofed('198.18.7.7', NET, text)", false},
	{"the outside as nobody", "spoofed('0.0.0.0', NET, text)", false},
	{"fragments as another sandbox", "fragments(OTHER, NET, text)", false},
	{"IPv6 to the outside", "ipv6('2001:db8::2', text, source='2001:db8::9')", false},
	{"IPv6 to the host's link", "ipv6('ff02::1', text)", false},
	{"a tagged frame", "frame(struct.pack('!HH', 5, 0x0800) + ipv4(own_address(), NET, datagram(text)), kind=0x8100)", false},
}

//go:embed testdata/probe.py
var probeProgram string

//go:embed testdata/witness.py
var witnessProgram string

// TestIsolationInVM: nothing that root in a sandbox sends arrives where it should not, and what should does; by IPv6 too, where a policy allows it.
func TestIsolationInVM(t *testing.T) {
	p := start(t)
	out := newOutside(t, p)
	victim, attacker := p.create("python311").ID, p.create("python311").ID
	p.put(victim, "/root/witness.py", witnessProgram)
	p.shellAs(victim, "root", fmt.Sprintf("nohup python3 /root/witness.py %d /root/seen >/root/log 2>&1 & while ! grep -q ready /root/seen; do sleep 0.2; done", probePort))
	other := netip.MustParseAddr(strings.TrimSpace(p.shell(victim, "hostname -I | tr -d ' '")))

	tokens := make([]string, len(isolation))
	var tried []map[string]string
	for i, probe := range isolation {
		tokens[i] = fmt.Sprintf("probe-%d-", i)
		tried = append(tried, map[string]string{"does": probe.does, "token": tokens[i]})
	}
	input, err := json.Marshal(map[string]any{
		"probes": tried, "timeout": 10,
		"who": map[string]any{"net": gatewayOfHost, "host": addressOfHost, "other": other.String(), "other_host": other.Prev().String(), "port": probePort},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.put(attacker, "/root/probe.py", probeProgram)
	result, err := p.client.Exec(p.context(), attacker, wrenn.ExecRequest{Shell: "python3 /root/probe.py", User: "root", Stdin: string(input)})
	if err != nil || result.ExitCode != 0 {
		t.Fatalf("the probes: %+v, %v", result, err)
	}
	// Tokens that come after all others, by the same ways: from the sandbox to the outside, and from the host to the other sandbox.
	p.put(attacker, "/root/last.json", strings.Replace(string(input), `"probes":`, `"probes":[{"does":"tcp(NET, text)","token":"probe-last-"}],"ignored":`, 1))
	p.shellAs(attacker, "root", "python3 /root/probe.py < /root/last.json")
	if err := netns.Do(p.netns, func() error { return sendUDP(t.Context(), other, "probe-control-") }); err != nil {
		t.Fatal(err)
	}
	seen := ""
	p.eventually("the witnesses have seen the last tokens", func(context.Context) error {
		seen = out.seen() + p.shellAs(victim, "root", "cat /root/seen")
		if !strings.Contains(seen, "probe-last-") || !strings.Contains(seen, "probe-control-") {
			return fmt.Errorf("they have seen %q", seen)
		}
		return nil
	})
	for i, probe := range isolation {
		if arrived := strings.Contains(seen, tokens[i]); arrived != probe.arrives {
			t.Errorf("%s: arrived: %v", probe.name, arrived)
		}
	}
	p.isolatesByIPv6(out, attacker, victim)
	if t.Failed() {
		t.Logf("seen at the outside and on the host: %q\nin the other sandbox: %q", out.seen(), p.shellAs(victim, "root", "cat /root/seen /root/log"))
	}
	p.destroy(attacker)
	p.destroy(victim)
}

// put writes a file in a sandbox as root.
func (p *platform) put(id, path, text string) {
	p.t.Helper()
	if _, err := p.client.WriteFile(p.context(), id, path, strings.NewReader(text), wrenn.AsUser("root")); err != nil {
		p.t.Fatal(err)
	}
}

// shellAs is shell as another user.
func (p *platform) shellAs(id, user, line string) string {
	p.t.Helper()
	result, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: line, User: user})
	if err != nil || result.ExitCode != 0 {
		p.t.Fatalf("%q: %+v, %v", line, result, err)
	}
	return result.Stdout
}
