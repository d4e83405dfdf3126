package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// The host and the outside by IPv6 (RFC 3849).
const (
	hostIPv6    = "2001:db8::1"
	outsideIPv6 = "2001:db8::2"
	privateIPv6 = "fd00:7::7"
)

// isolationIPv6 is what a sandbox can do by IPv6 under a policy that allows it.
var isolationIPv6 = []probe{
	{"UDP to the outside", "udp(NET, text)", true},
	{"TCP to the outside", "tcp(NET, text)", true},

	{"UDP to another sandbox", "udp(OTHER, text)", false},
	{"another sandbox, as itself", "ipv6(OTHER, text, source=OTHER)", false},
	{"UDP to the gateway of another sandbox", "udp(OTHER_HOST, text)", false},
	{"UDP to the host's own address", "udp(HOST, text)", false},
	{"TCP to the host's own address", "tcp(HOST, text)", false},
	{"UDP to the metadata service", "udp('fd00:ec2::254', text)", false},
	{"UDP to a private network", "udp('" + privateIPv6 + "', text)", false},
	{"link-local", "ipv6('fe80::1', text)", false},
	{"multicast", "ipv6('ff02::1', text)", false},
	{"IPv4 by NAT64", "udp('64:ff9b::192.0.2.2', text)", false},
	{"IPv4 by 6to4", "udp('2002:c000:202::1', text)", false},
	{"the outside as another sandbox", "ipv6(NET, text, source=OTHER)", false},
	{"the outside as the host", "ipv6(NET, text, source=HOST)", false},
	{"the outside as a stranger", "ipv6(NET, text, source='2001:db8::9')", false},
}

// isolatesByIPv6 gives both sandboxes IPv6 while they run, and holds what reaches whom against the table; it stays over a pause, and goes with the policy.
func (p *platform) isolatesByIPv6(out *outside, attacker, victim string) {
	p.t.Helper()
	p.giveIPv6()
	var addresses []netip.Addr
	for _, id := range []string{attacker, victim} {
		p.setNetwork(id, wrenn.NetworkPolicy{IPv6: wrenn.On})
		addresses = append(addresses, p.hasIPv6(id))
	}
	other := addresses[1]
	who := map[string]any{"net": outsideIPv6, "host": hostIPv6, "other": other.String(), "other_host": other.Prev().String(), "port": probePort}
	p.attack(attacker, who, "table", isolationIPv6...)
	seen := ""
	p.eventually("the outside has been reached by IPv6", func(context.Context) error {
		seen = out.seen() + p.shellAs(victim, "root", "cat /root/seen")
		if !strings.Contains(seen, "probe-table0-") || !strings.Contains(seen, "probe-table1-") {
			return fmt.Errorf("it has seen %q", seen)
		}
		return nil
	})
	for i, probe := range isolationIPv6 {
		if arrived := strings.Contains(seen, fmt.Sprintf("probe-table%d-", i)); arrived != probe.arrives {
			p.t.Errorf("by IPv6: %s: arrived: %v", probe.name, arrived)
		}
	}
	if _, err := p.client.PauseSandbox(p.context(), attacker); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.client.ResumeSandbox(p.context(), attacker); err != nil {
		p.t.Fatal(err)
	}
	if again := p.hasIPv6(attacker); again != addresses[0] {
		p.t.Errorf("after a pause it has %s, and had %s", again, addresses[0])
	}
	p.attack(attacker, who, "resumed", isolationIPv6[0])
	p.setNetwork(attacker, wrenn.NetworkPolicy{IPv6: wrenn.Off})
	if left := p.guestIPv6(attacker); left != "" {
		p.t.Errorf("without IPv6 the guest has %s", left)
	}
	p.attack(attacker, who, "off", isolationIPv6[0])
	if seen := out.seen(); !strings.Contains(seen, "probe-resumed0-") || strings.Contains(seen, "probe-off0-") {
		p.t.Errorf("of what was sent after the resume, and after IPv6 was taken, the outside has seen %q", seen)
	}
}

// giveIPv6 gives the host and the outside IPv6. The outside knows the way to the sandboxes, so that only rules keep it out.
func (p *platform) giveIPv6() {
	p.t.Helper()
	give := func(device, route, gateway string, addresses ...string) error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		for _, text := range addresses {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		_, to, err := net.ParseCIDR(route)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index})
	}
	err := netns.Do(p.netns, func() error { return give("uplink", "::/0", outsideIPv6, hostIPv6+"/64") })
	if err == nil {
		err = netns.Do(filepath.Join(p.dir, "peer"), func() error {
			return give("peer", "fd57::/16", hostIPv6, outsideIPv6+"/64", privateIPv6+"/128")
		})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// hasIPv6 holds what the host says of a sandbox's IPv6 against what its guest has.
func (p *platform) hasIPv6(id string) netip.Addr {
	p.t.Helper()
	state, err := p.client.Network(p.context(), id)
	if err != nil || state.IPv6.Address == "" || state.IPv6.Why != "" {
		p.t.Fatalf("%+v, %v", state, err)
	}
	if guest := p.guestIPv6(id); guest != state.IPv6.Address {
		p.t.Errorf("the guest has %q, and the host says %s", guest, state.IPv6.Address)
	}
	return netip.MustParseAddr(state.IPv6.Address)
}

// guestIPv6 is the address of a guest's eth0, as the guest sees it.
func (p *platform) guestIPv6(id string) string {
	p.t.Helper()
	const program = `import socket; print(*(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(l.split()[0])) for l in open("/proc/net/if_inet6") if l.split()[5] == "eth0"))`
	return strings.TrimSpace(p.shell(id, "python3 -c '"+program+"'"))
}

// attack has root in a sandbox try probes; the token of each has the name and its place.
func (p *platform) attack(id string, who map[string]any, name string, probes ...probe) {
	p.t.Helper()
	var tried []map[string]string
	for i, probe := range probes {
		tried = append(tried, map[string]string{"does": probe.does, "token": fmt.Sprintf("probe-%s%d-", name, i)})
	}
	input, err := json.Marshal(map[string]any{"probes": tried, "timeout": 10, "who": who})
	if err != nil {
		p.t.Fatal(err)
	}
	result, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: "python3 /root/probe.py", User: "root", Stdin: string(input)})
	if err != nil || result.ExitCode != 0 {
		p.t.Fatalf("the probes: %+v, %v", result, err)
	}
}
