package network_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// The peer's other addresses: two of one documentation network (RFC 5737), one of another, one that is private.
const (
	farAddress     = "198.51.100.7"
	nearFarAddress = "198.51.100.8"
	otherAddress   = "203.0.113.9"
	privateAddress = "172.16.5.5"
)

// probe is something that a guest sends, under a policy, and what must become of it.
type probe struct {
	name   string
	policy string       // in policies
	send   func(*guest) // one frame, or several that are one packet
	want   string       // the rule that refuses it; arrives, or dropped without a rule
}

const (
	arrives = "arrives" // at the peer, with the probe's name
	nothing = "nothing" // happens: the kernel has no use for it
)

var policies = map[string]network.Policy{
	"default": network.DefaultPolicy,
	"closed":  {},
	"private": {Allow: prefixes("172.16.0.0/13")},
	"deny":    {Internet: true, Deny: prefixes("198.51.100.0/25"), Allow: prefixes(farAddress + "/32")},
	"names":   {Names: true, Deny: prefixes("0.0.0.0/0")},
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// TestProbes sends what hostile guests send. Each probe is refused by the rule that is to refuse it, and counted
// by no other; or it arrives. A packet that is allowed, sent afterwards, is the first that the peer receives.
func TestProbes(t *testing.T) {
	w := newWorld(t)
	w.widen()
	n := w.open("")
	peer := w.listen(w.peer, "0.0.0.0:7000")
	_, two := w.attach(n, bob)
	w.boot(two)
	packets, streams, err := n.ListenDNS(t.Context())
	w.must(err)
	defer packets.Close()
	defer streams.Close()
	guests := map[string]*guest{}
	for name, p := range policies {
		guests[name] = w.bootWith(n, id.Sandbox("sb-0000000"+string('a'+rune(len(guests)))), p)
	}
	w.must(n.Pin(t.Context(), guests["names"].sandbox, "a.example", []netip.Addr{netip.MustParseAddr(otherAddress), netip.MustParseAddr(privateAddress)}, time.Hour))
	list := probes(two, packets.LocalAddr().(*net.UDPAddr).Port)
	if len(list) < 60 {
		t.Errorf("%d probes", len(list))
	}
	for _, p := range list {
		w.probe(n, guests, p, peer, peerAddress+":7000")
	}
}

// probe holds what becomes of a probe against what is wanted. A datagram to the peer's address comes after it.
func (w *world) probe(n *network.Network, guests map[string]*guest, p probe, peer *net.UDPConn, address string) {
	w.Helper()
	g := guests[cmp.Or(p.policy, "default")]
	before := refused(w, n, g)
	if p.send(g); p.want == arrives {
		w.wantDatagram(peer, p.name)
	}
	guests["default"].say(address, "after "+p.name)
	w.wantDatagram(peer, "after "+p.name)
	after := refused(w, n, g)
	for _, rule := range network.Rules {
		want := before[rule]
		if rule == p.want {
			want++
		}
		if after[rule] != want {
			w.Errorf("%s: refused %d times as %s, want %d", p.name, after[rule]-before[rule], rule, want-before[rule])
		}
	}
}

func refused(t testing.TB, n *network.Network, g *guest) map[string]uint64 {
	t.Helper()
	c, err := n.Counters(g.sandbox)
	if err != nil {
		t.Fatal(err)
	}
	return c.Refused
}

// widen gives the peer its other addresses, and the host a way to link-local ones.
func (w *world) widen() {
	w.Helper()
	w.must(netns.Do(w.peer, func() error {
		link, err := netlink.LinkByName("peer")
		for _, address := range []string{farAddress, nearFarAddress, otherAddress, privateAddress} {
			if err == nil {
				err = addAddress(link, address+"/32")
			}
		}
		return err
	}))
	w.onHost(func() error { // to the neighbour of a cloud's metadata service, were it not for the rules
		_, metadata, _ := net.ParseCIDR("169.254.0.0/16")
		return netlink.RouteAdd(&netlink.Route{Dst: metadata, Gw: net.ParseIP(peerAddress)})
	})
}

// bootWith attaches and boots a guest under a policy.
func (w *world) bootWith(n *network.Network, sandbox id.Sandbox, p network.Policy) *guest {
	w.Helper()
	slot, err := n.Reserve(w.Context())
	w.must(err)
	link, err := n.Attach(w.Context(), sandbox, slot, p)
	w.must(err)
	g := w.boot(link)
	g.sandbox = sandbox
	return g
}

// datagram is UDP to an address, with the probe's name where it is to arrive.
func datagram(to, text string) func(*guest) {
	return func(g *guest) { g.say(to, text) }
}

// packetTo is a packet of some protocol.
func packetTo(to string, protocol byte, payload ...byte) func(*guest) {
	return func(g *guest) {
		g.send(packet{to: netip.MustParseAddr(to), protocol: protocol, payload: append(payload, make([]byte, 16)...)})
	}
}

// as is UDP to the peer from a source that is not the guest's.
func as(source netip.Addr) func(*guest) {
	return func(g *guest) {
		g.send(packet{from: source, to: netip.MustParseAddr(peerAddress), protocol: unix.IPPROTO_UDP, payload: udp(7000, "spoofed")})
	}
}

// probes are what is sent to, or beside, another sandbox.
func probes(other network.Link, namePort int) []probe {
	addr := netip.MustParseAddr
	gateway := func(g *guest) string { return g.link.Gateway.String() }
	return append([]probe{
		{name: "the world", send: datagram(peerAddress+":7000", "the world"), want: arrives},
		{name: "another address of the world", send: datagram(farAddress+":7000", "another address of the world"), want: arrives},

		{name: "another sandbox", send: datagram(other.Guest.Addr().String()+":7000", ""), want: "sandbox"},
		{name: "ping of another sandbox", send: packetTo(other.Guest.Addr().String(), icmp, ping(8)...), want: "sandbox"},
		{name: "TCP to another sandbox", send: tcpTo(other.Guest.Addr().String(), 22), want: "sandbox"},
		{name: "an address nobody has", send: datagram("10.0.200.2:7000", ""), want: "sandbox"},

		{name: "the host's uplink", send: datagram(hostAddress+":7001", ""), want: "host"},
		{name: "TCP to the host's uplink", send: tcpTo(hostAddress, 22), want: "host"},
		{name: "ping of the host's uplink", send: packetTo(hostAddress, icmp, ping(8)...), want: "host"},
		{name: "its gateway", send: func(g *guest) { g.say(gateway(g)+":7001", "") }, want: "host"},
		{name: "TCP to its gateway", send: func(g *guest) { tcpTo(gateway(g), 22)(g) }, want: "host"},
		{name: "the name server's own port", send: func(g *guest) { g.send(udpTo(g.link.Gateway, uint16(namePort))) }, want: "host"},
		{name: "names from another's gateway", send: datagram(other.Gateway.String()+":53", ""), want: "host"},
		{name: "names from the host's uplink", send: datagram(hostAddress+":53", ""), want: "host"},
		{name: "another's gateway", send: datagram(other.Gateway.String()+":7001", ""), want: "host"},
		{name: "ping of another's gateway", send: packetTo(other.Gateway.String(), icmp, ping(8)...), want: "host"},
		{name: "its network's broadcast", send: func(g *guest) { g.say(g.link.Guest.Addr().Next().String()+":7001", "") }, want: "host"},
		{name: "a redirect for the host", send: func(g *guest) { packetTo(gateway(g), icmp, 5, 1)(g) }, want: "host"},

		{name: "cloud metadata", send: tcpTo("169.254.169.254", 80), want: "link_local"},
		{name: "link-local", send: datagram("169.254.7.7:7000", ""), want: "link_local"},
		{name: "multicast", send: datagram("224.0.0.1:7000", ""), want: "multicast"},
		{name: "names by multicast", send: datagram("224.0.0.251:5353", ""), want: "multicast"},
		{name: "IGMP", send: packetTo("224.0.0.22", unix.IPPROTO_IGMP), want: "multicast"},
		{name: "reserved", send: datagram("240.0.0.1:7000", ""), want: "multicast"},
		{name: "broadcast", send: datagram("255.255.255.255:7000", ""), want: "multicast"},
		{name: "loopback", send: tcpTo("127.0.0.1", 5432), want: "loopback"},
		{name: "address zero", send: datagram("0.0.0.0:7000", ""), want: "this_network"},

		{name: "a foreign source", send: as(addr("192.0.2.77")), want: "spoofed"},
		{name: "another sandbox's source", send: as(other.Guest.Addr()), want: "spoofed"},
		{name: "the gateway's source", send: func(g *guest) { as(g.link.Gateway)(g) }, want: "spoofed"},
		{name: "the host's source", send: as(addr(hostAddress)), want: "spoofed"},
		{name: "loopback as source", send: as(addr("127.0.0.1")), want: "spoofed"},
		{name: "an unused source", send: as(addr("10.0.200.2")), want: "spoofed"},
		{name: "DHCP discovery", send: dhcp(68, 67, "0.0.0.0", "255.255.255.255"), want: "spoofed"},
		{name: "a DHCP offer", send: func(g *guest) { dhcp(67, 68, g.link.Guest.Addr().String(), gateway(g))(g) }, want: "host"},
		{name: "another Ethernet source", send: fromMAC(other.MAC), want: "spoofed"},
		{name: "the gateway's Ethernet source", send: func(g *guest) { fromMAC(g.gateway)(g) }, want: "spoofed"},

		{name: "SCTP", send: packetTo(peerAddress, unix.IPPROTO_SCTP, 0, 7, 0, 7), want: "protocol"},
		{name: "GRE", send: packetTo(peerAddress, unix.IPPROTO_GRE), want: "protocol"},
		{name: "IP in IP", send: packetTo(peerAddress, unix.IPPROTO_IPIP), want: "protocol"},
		{name: "IPv6 in IP", send: packetTo(peerAddress, unix.IPPROTO_IPV6), want: "protocol"},
		{name: "ESP", send: packetTo(peerAddress, unix.IPPROTO_ESP), want: "protocol"},
		{name: "UDP-Lite", send: packetTo(peerAddress, unix.IPPROTO_UDPLITE), want: "protocol"},
		{name: "a raw protocol", send: packetTo(peerAddress, 253), want: "protocol"},
		{name: "ICMP timestamp", send: packetTo(peerAddress, icmp, summed(13)...), want: "protocol"},
		{name: "an answer nobody asked for", send: packetTo(peerAddress, icmp, ping(0)...), want: "invalid"},
		{name: "a redirect for the world", send: packetTo(peerAddress, icmp, summed(5)...), want: "invalid"},
		{name: "a source route", send: func(g *guest) {
			p := udpTo(addr(peerAddress), 7000)
			p.options = []byte{131, 7, 4, 192, 0, 2, 1, 0} // loose source route: RFC 791
			g.send(p)
		}, want: "ip_options"},

		{name: "RFC 1918, a class C", send: datagram("192.168.1.1:80", ""), want: "private"},
		{name: "RFC 1918, a class B", send: datagram(privateAddress+":7000", ""), want: "private"},
		{name: "RFC 1918, a class A", send: datagram("10.99.0.1:80", ""), want: "private"},
		{name: "carrier's NAT, a cloud's metadata", send: tcpTo("100.100.100.200", 80), want: "private"},
		{name: "benchmark networks", send: datagram("198.19.0.1:7000", ""), want: "private"},
		{name: "protocol assignments", send: datagram("192.0.0.8:7000", ""), want: "private"},

		{name: "IPv6 to all nodes", send: ipv6To("ff02::1"), want: "ipv6"},
		{name: "IPv6 to a cloud's metadata", send: ipv6To("fd00:ec2::254"), want: "ipv6"},
		{name: "IPv6 to the world", send: ipv6To("2001:db8::1"), want: "ipv6"},
		{name: "an IPv6 router's advertisement", send: ipv6To("ff02::2"), want: "ipv6"},

		{name: "a VLAN", send: tagged(5, peerAddress), want: nothing},
		{name: "a VLAN of priority", send: tagged(0, "169.254.169.254"), want: "link_local"},
		{name: "an unknown ethertype", send: func(g *guest) { g.frame(g.gateway, 0x88b5, make([]byte, 46)) }, want: nothing},
		{name: "a frame too short", send: func(g *guest) { g.frame(g.gateway, unix.ETH_P_IP, []byte{0x45, 0}) }, want: nothing},

		{name: "fragments", send: func(g *guest) { g.fragmented(addr(peerAddress), g.link.Guest.Addr(), "fragments") }, want: arrives},
		{name: "a fragment for metadata", send: func(g *guest) {
			p := udpTo(addr("169.254.169.254"), 80)
			p.fragment = 1
			g.send(p)
		}, want: "link_local"},
		{name: "a fragment of another's packet", send: func(g *guest) {
			p := udpTo(addr(peerAddress), 7000)
			p.from, p.fragment = other.Guest.Addr(), 0x2000
			g.send(p)
		}, want: "spoofed"},
	}, policyProbes()...)
}

// policyProbes are what a policy decides.
func policyProbes() []probe {
	to := func(address string) func(string) func(*guest) {
		return func(name string) func(*guest) { return datagram(address+":7000", name) }
	}
	var list []probe
	for _, p := range []struct{ name, policy, to, want string }{
		{"closed: the world", "closed", peerAddress, "internet"},
		{"closed: private", "closed", privateAddress, "private"},
		{"private: allowed", "private", privateAddress, arrives},
		{"private: its neighbour is not", "private", "172.24.0.1", "private"},
		{"private: the world", "private", peerAddress, "internet"},
		{"deny: what nothing names", "deny", peerAddress, arrives},
		{"deny: denied", "deny", nearFarAddress, "denied"},
		{"deny: allowed within", "deny", farAddress, arrives},
		{"names: pinned", "names", otherAddress, arrives},
		{"names: not pinned", "names", peerAddress, "denied"},
		{"names: a private answer", "names", privateAddress, "denied"},
	} {
		list = append(list, probe{name: p.name, policy: p.policy, send: to(p.to)(p.name), want: p.want})
	}
	return append(list,
		probe{name: "names: another name server", policy: "names", send: datagram(otherAddress+":53", ""), want: "dns"},
		probe{name: "names: the same by TCP", policy: "names", send: tcpTo(otherAddress, 53), want: "dns"},
		probe{name: "names: the same by TLS", policy: "names", send: tcpTo(otherAddress, 853), want: "dns"},
		probe{name: "names: the same by QUIC", policy: "names", send: datagram(otherAddress+":853", ""), want: "dns"})
}

const icmp = unix.IPPROTO_ICMP

func udpTo(to netip.Addr, port uint16) packet {
	return packet{to: to, protocol: unix.IPPROTO_UDP, payload: udp(port, "denied")}
}

func tcpTo(to string, port uint16) func(*guest) {
	return func(g *guest) {
		address := netip.MustParseAddr(to)
		g.send(packet{to: address, protocol: unix.IPPROTO_TCP, payload: syn(g.link.Guest.Addr(), address, port)})
	}
}

// dhcp is the beginning of a DHCP message: RFC 2131.
func dhcp(fromPort, toPort uint16, from, to string) func(*guest) {
	return func(g *guest) {
		payload := udp(toPort, "\x01\x01\x06\x00")
		binary.BigEndian.PutUint16(payload, fromPort)
		g.send(packet{from: netip.MustParseAddr(from), to: netip.MustParseAddr(to), protocol: unix.IPPROTO_UDP, payload: payload})
	}
}

// fromMAC is UDP to the world from another Ethernet address.
func fromMAC(mac net.HardwareAddr) func(*guest) {
	return func(g *guest) {
		header := append(append(bytes.Clone(g.gateway), mac...), 0x08, 0x00)
		g.raw(append(header, g.encode(udpTo(netip.MustParseAddr(peerAddress), 7000))...))
	}
}

// tagged is UDP with an IEEE 802.1Q tag.
func tagged(vlan byte, to string) func(*guest) {
	return func(g *guest) {
		g.frame(g.gateway, unix.ETH_P_8021Q, append([]byte{0, vlan, 0x08, 0x00}, g.encode(udpTo(netip.MustParseAddr(to), 7000))...))
	}
}

// ipv6To is an empty packet: RFC 8200.
func ipv6To(to string) func(*guest) {
	return func(g *guest) {
		header := append([]byte{0x60, 0, 0, 0, 0, 0, 59, 1}, net.ParseIP("fe80::2")...)
		g.frame(g.gateway, unix.ETH_P_IPV6, append(header, net.ParseIP(to)...))
	}
}

// summed is an ICMP message of a kind that says nothing but that: RFC 792.
func summed(kind byte) []byte {
	b := make([]byte, 36)
	b[0] = kind
	b[8], b[17] = 0x45, unix.IPPROTO_UDP // of a packet that the message is about
	binary.BigEndian.PutUint16(b[2:], checksum(append(bytes.Clone(b), make([]byte, 16)...)))
	return b
}

// fragmented sends a datagram in two fragments.
func (g *guest) fragmented(to, from netip.Addr, text string) {
	whole := udp(7000, text)
	g.send(packet{from: from, to: to, protocol: unix.IPPROTO_UDP, payload: whole[:8], fragment: 0x2000}) // more follow
	g.send(packet{from: from, to: to, protocol: unix.IPPROTO_UDP, payload: whole[8:], fragment: 1})      // eight bytes on
}
