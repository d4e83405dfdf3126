package network_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

var policiesIPv6 = map[string]network.Policy{
	"default": {Internet: true, IPv6: true}, // of this test
	"off":     {Internet: true},
	"closed":  {IPv6: true},
	"private": {IPv6: true, Allow: prefixes("fd00:6::/31")},
	"deny":    {Internet: true, IPv6: true, Deny: prefixes("2001:db8:6::/47"), Allow: prefixes(farIPv6 + "/128")},
	"names":   {IPv6: true, Names: true, Deny: prefixes("::/0")},
}

// TestProbesIPv6 is TestProbes for IPv6: each probe is refused by the rule that is to refuse it, and counted by no other; or it arrives.
func TestProbesIPv6(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	n := w.open("")
	peer := w.listen(w.peer, "[::]:7000")
	w.listen(w.host, "[::]:7001")
	guests := map[string]*guest{}
	for name, p := range policiesIPv6 {
		g := w.bootWith(n, id.Sandbox("sb-0000000"+string('a'+rune(len(guests)))), p)
		if guests[name] = g; p.IPv6 {
			g.findIPv6()
			continue
		}
		if g.link.IPv6.Guest.IsValid() {
			t.Errorf("without IPv6 it has %s", g.link.IPv6.Guest)
		}
		g.link.IPv6 = placeOf(g.link.Index)
	}
	_, slotless := w.attach(n, alice) // has no IPv6, and a place for it
	other := w.bootWith(n, bob, network.Policy{Internet: true, IPv6: true})
	addr := netip.MustParseAddr
	w.must(n.Pin(t.Context(), guests["names"].sandbox, "a.example", []netip.Addr{addr(otherIPv6), addr(privateIPv6), addr("::ffff:192.0.2.2")}, time.Hour))
	list := append(probesIPv6(other.link, slotless), append(headerProbes(), policyProbesIPv6()...)...)
	if len(list) < 60 {
		t.Errorf("%d probes", len(list))
	}
	for _, p := range list {
		w.probe(n, guests, p, peer, onPort(peerIPv6))
	}
	w.wantExact(n)
	w.listing("table inet wrenn") // nft(8) can read it
}

// placeOf is what a slot would have by IPv6.
func placeOf(index int) network.IPv6 {
	b := network.DefaultSubnetIPv6.Addr().As16()
	b[14], b[15] = byte(index>>6), byte(index<<2)+1
	gateway := netip.AddrFrom16(b)
	return network.IPv6{Gateway: gateway, Guest: netip.PrefixFrom(gateway.Next(), 126)}
}

// to is UDP to an address, with the probe's name where it is to arrive.
func to(address, name string) func(*guest) { return datagram(onPort(address), name) }

// asIPv6 is UDP to the peer from a source that is not the guest's.
func asIPv6(source string) func(*guest) {
	return func(g *guest) {
		g.send(packet{from: netip.MustParseAddr(source), to: netip.MustParseAddr(peerIPv6), protocol: unix.IPPROTO_UDP, payload: udp(7000, "spoofed")})
	}
}

// message is one of ICMPv6 of a kind and nothing more.
func message(to string, kind byte) func(*guest) {
	return func(g *guest) {
		g.send(packet{to: netip.MustParseAddr(to), protocol: icmpv6, payload: append(echoIPv6(kind), make([]byte, 24)...)})
	}
}

// probesIPv6 are what is sent to, or beside, another sandbox, and one that has no IPv6.
func probesIPv6(other, without network.Link) []probe {
	addr := netip.MustParseAddr
	nobody := addr(network.DefaultSubnetIPv6.Addr().Next().Next().String()) // of the first slot
	gateway := func(g *guest) string { return g.link.IPv6.Gateway.String() }
	return []probe{
		{name: "the world", send: to(peerIPv6, "the world"), want: arrives},
		{name: "another address of the world", send: to(farIPv6, "another address of the world"), want: arrives},
		{name: "another sandbox", send: to(other.IPv6.Guest.Addr().String(), ""), want: "sandbox"},
		{name: "ping of another sandbox", send: message(other.IPv6.Guest.Addr().String(), 128), want: "sandbox"},
		{name: "TCP to another sandbox", send: tcpIPv6(other.IPv6.Guest.Addr().String(), 22), want: "sandbox"},
		{name: "where a sandbox could be", send: to(nobody.String(), ""), want: "sandbox"},
		{name: "another's gateway", send: datagram(netip.AddrPortFrom(other.IPv6.Gateway, 7001).String(), ""), want: "host"},
		{name: "its gateway", send: func(g *guest) { datagram("["+gateway(g)+"]:7001", "")(g) }, want: "host"},
		{name: "TCP to its gateway", send: func(g *guest) { tcpIPv6(gateway(g), 22)(g) }, want: "host"},
		{name: "names from its gateway", send: func(g *guest) { datagram("["+gateway(g)+"]:53", "")(g) }, want: "host"},
		{name: "ping of its gateway", send: func(g *guest) { message(gateway(g), 128)(g) }, want: nothing},
		{name: "ping of another's gateway", send: message(other.IPv6.Gateway.String(), 128), want: "host"},
		{name: "an answer nobody asked for, to its gateway", send: func(g *guest) { message(gateway(g), 129)(g) }, want: "host"},
		{name: "UDP to its gateway with the bytes of a question", send: func(g *guest) {
			payload := udp(7001, string(g.link.IPv6.Gateway.AsSlice()))
			payload[0] = asks
			g.send(packet{to: g.link.IPv6.Gateway, protocol: unix.IPPROTO_UDP, payload: payload})
		}, want: "host"},
		{name: "a ping of the host's uplink with the bytes of a question", send: func(g *guest) {
			g.send(packet{to: addr(hostIPv6), protocol: icmpv6, payload: append(echoIPv6(128), g.link.IPv6.Gateway.AsSlice()...)})
		}, want: "host"},
		{name: "the host's uplink", send: datagram("["+hostIPv6+"]:7001", ""), want: "host"},
		{name: "TCP to the host's uplink", send: tcpIPv6(hostIPv6, 22), want: "host"},
		{name: "its network's anycast", send: func(g *guest) { datagram(netip.AddrPortFrom(g.link.IPv6.Gateway.Prev(), 7001).String(), "")(g) }, want: "host"},

		{name: "link-local", send: to("fe80::1", ""), want: "link_local"},
		{name: "a cloud's metadata", send: tcpIPv6("fd00:ec2::254", 80), want: "link_local"},
		{name: "another cloud's metadata", send: tcpIPv6("fd20:ce::254", 80), want: "link_local"},
		{name: "all nodes", send: to("ff02::1", ""), want: "multicast"},
		{name: "names by multicast", send: datagram("[ff02::fb]:5353", ""), want: "multicast"},
		{name: "a group of the whole world", send: to("ff0e::7", ""), want: "multicast"},
		{name: "DHCPv6", send: datagram("[ff02::1:2]:547", ""), want: "multicast"},
		{name: "reserved", send: to("4000::1", ""), want: "multicast"},
		{name: "site-local", send: to("fec0::1", ""), want: "multicast"},
		{name: "loopback", send: to("::1", ""), want: nothing},
		{name: "no address", send: to("::", ""), want: "this_network"},

		{name: "a mapped address", send: func(g *guest) {
			g.send(packet{to: netip.AddrFrom16(addr(peerAddress).As16()), protocol: unix.IPPROTO_UDP, payload: udp(7000, "")})
		}, want: "ipv4_in_ipv6"},
		{name: "a compatible address", send: to("::192.0.2.2", ""), want: "ipv4_in_ipv6"},
		{name: "NAT64", send: to("64:ff9b::192.0.2.2", ""), want: "ipv4_in_ipv6"},
		{name: "local NAT64", send: to("64:ff9b:1::169.254.169.254", ""), want: "ipv4_in_ipv6"},
		{name: "6to4", send: to("2002:a00:1::1", ""), want: "ipv4_in_ipv6"},
		{name: "Teredo", send: to("2001:0:c000:202::1", ""), want: "ipv4_in_ipv6"},

		{name: "a foreign source", send: asIPv6("2001:db8::77"), want: "spoofed"},
		{name: "another sandbox's source", send: asIPv6(other.IPv6.Guest.Addr().String()), want: "spoofed"},
		{name: "the source of one without IPv6", send: asIPv6(nobody.String()), want: "spoofed"},
		{name: "the gateway's source", send: func(g *guest) { asIPv6(gateway(g))(g) }, want: "spoofed"},
		{name: "the host's source", send: asIPv6(hostIPv6), want: "spoofed"},
		{name: "a link-local source", send: asIPv6("fe80::2"), want: "spoofed"},
		{name: "no source", send: asIPv6("::"), want: "spoofed"},
		{name: "another Ethernet source", send: func(g *guest) {
			header := append(append(append([]byte(nil), g.gateway...), without.MAC...), 0x86, 0xdd)
			g.raw(append(header, g.encodeIPv6(udpTo(addr(peerIPv6), 7000))...))
		}, want: "spoofed"},

		{name: "a router's advertisement to all", send: message("ff02::1", 134), want: "multicast"},
		{name: "a router's advertisement to its gateway", send: func(g *guest) { message(gateway(g), 134)(g) }, want: "protocol"},
		{name: "a link-local router's advertisement", send: func(g *guest) {
			g.send(packet{from: addr("fe80::2"), to: addr("ff02::1"), protocol: icmpv6, payload: append(echoIPv6(134), make([]byte, 8)...)})
		}, want: "spoofed"},
		{name: "a router's solicitation", send: message("ff02::2", 133), want: "multicast"},
		{name: "a redirect", send: func(g *guest) { message(gateway(g), 137)(g) }, want: "protocol"},
		{name: "a neighbour's advertisement of its gateway's address", send: func(g *guest) {
			g.send(packet{to: g.link.IPv6.Gateway, protocol: icmpv6, payload: g.neighbour(advertises, 2, other.IPv6.Guest.Addr())})
		}, want: "protocol"},
		{name: "a question for another sandbox", send: func(g *guest) { g.asksFor(other.IPv6.Guest.Addr(), other.IPv6.Guest.Addr()) }, want: "multicast"},
		{name: "a question for its gateway, to the world", send: func(g *guest) {
			g.send(packet{to: addr(peerIPv6), protocol: icmpv6, payload: g.neighbour(asks, 1, g.link.IPv6.Gateway)})
		}, want: "protocol"},
		{name: "an advertisement of its gateway's own address", send: func(g *guest) {
			g.send(packet{to: g.link.IPv6.Gateway, protocol: icmpv6, payload: g.neighbour(advertises, 2, g.link.IPv6.Gateway)})
		}, want: "protocol"},
		{name: "an advertisement to the group of its gateway", send: func(g *guest) {
			g.send(packet{to: groupOf(g.link.IPv6.Gateway), protocol: icmpv6, payload: g.neighbour(advertises, 2, g.link.IPv6.Gateway)})
		}, want: "multicast"},
		{name: "a question for another sandbox, to its gateway", send: func(g *guest) {
			g.send(packet{to: g.link.IPv6.Gateway, protocol: icmpv6, payload: g.neighbour(asks, 1, other.IPv6.Guest.Addr())})
		}, want: "protocol"},
		{name: "UDP with the bytes of a question", send: func(g *guest) {
			g.send(packet{to: groupOf(g.link.IPv6.Gateway), protocol: unix.IPPROTO_UDP, payload: g.neighbour(asks, 1, g.link.IPv6.Gateway)})
		}, want: "multicast"},
		{name: "where its gateway is, asked of it", send: func(g *guest) {
			g.send(packet{to: g.link.IPv6.Gateway, protocol: icmpv6, payload: g.neighbour(asks, 1, g.link.IPv6.Gateway)})
		}, want: nothing},
		{name: "the groups that it joins", send: message("ff02::16", 143), want: nothing},
		{name: "where its gateway is", send: func(g *guest) { g.asksFor(g.link.IPv6.Gateway, g.link.IPv6.Gateway) }, want: nothing},
		{name: "an answer nobody asked for", send: message(peerIPv6, 129), want: "invalid"},
		{name: "an error about nothing: unreachable", send: message(peerIPv6, 1), want: "invalid"},
		{name: "too big", send: message(peerIPv6, 2), want: "invalid"},
		{name: "time exceeded", send: message(peerIPv6, 3), want: "invalid"},
		{name: "a bad parameter", send: message(peerIPv6, 4), want: "invalid"},
		{name: "a node's information", send: message(peerIPv6, 139), want: "protocol"},
	}
}

// headerProbes are about what follows the header.
func headerProbes() []probe {
	addr := netip.MustParseAddr
	header := func(to string, kind byte, first ...byte) func(*guest) {
		return func(g *guest) {
			g.send(packet{to: addr(to), protocol: kind, payload: append(append(first, make([]byte, 8-len(first))...), udp(7000, "")...)})
		}
	}
	whole := udp(7000, "fragments in order")
	pieces := func(inner byte, pieces ...[]byte) func(*guest) {
		return func(g *guest) {
			offset := 0
			for i, piece := range pieces {
				g.send(packet{to: addr(peerIPv6), protocol: unix.IPPROTO_FRAGMENT, payload: part(inner, uint16(offset), i < len(pieces)-1, piece)})
				offset += len(piece)
			}
		}
	}
	return []probe{
		{name: "hop-by-hop options", send: header(peerIPv6, unix.IPPROTO_HOPOPTS, 17), want: "ip_options"},
		{name: "a routing header", send: header(peerIPv6, unix.IPPROTO_ROUTING, 17, 0, 4), want: "ip_options"},
		{name: "options for the destination", send: header(peerIPv6, unix.IPPROTO_DSTOPTS, 17), want: "ip_options"},
		{name: "an authentication header", send: header(peerIPv6, unix.IPPROTO_AH, 17, 4), want: "protocol"},
		{name: "ESP", send: header(peerIPv6, unix.IPPROTO_ESP), want: "protocol"},
		{name: "IPv4 in IPv6", send: header(peerIPv6, unix.IPPROTO_IPIP, 0x45), want: "protocol"},
		{name: "IPv6 in IPv6", send: header(peerIPv6, unix.IPPROTO_IPV6, 0x60), want: "protocol"},
		{name: "GRE", send: header(peerIPv6, unix.IPPROTO_GRE), want: "protocol"},
		{name: "SCTP", send: header(peerIPv6, unix.IPPROTO_SCTP, 0, 7), want: "protocol"},
		{name: "nothing follows", send: header(peerIPv6, unix.IPPROTO_NONE), want: "protocol"},
		{name: "a raw protocol", send: header(peerIPv6, 253), want: "protocol"},
		{name: "options in a fragment", send: header(peerIPv6, unix.IPPROTO_FRAGMENT, unix.IPPROTO_DSTOPTS), want: "protocol"},
		{name: "a fragment in a fragment", send: header(peerIPv6, unix.IPPROTO_FRAGMENT, unix.IPPROTO_FRAGMENT), want: "protocol"},
		{name: "a tunnel in a fragment", send: header(peerIPv6, unix.IPPROTO_FRAGMENT, unix.IPPROTO_IPIP), want: "protocol"},
		{name: "a fragment for metadata", send: header("fd00:ec2::254", unix.IPPROTO_FRAGMENT, 17), want: "link_local"},
		{name: "fragments in order", send: func(g *guest) {
			binaryChecksum(g, whole)
			pieces(unix.IPPROTO_UDP, whole[:16], whole[16:])(g)
		}, want: arrives},
		{name: "a redirect in fragments", send: func(g *guest) {
			redirect := append(echoIPv6(137), make([]byte, 32)...)
			sum := checksumIPv6(packet{from: g.link.IPv6.Guest.Addr(), to: addr(peerIPv6), protocol: icmpv6}, redirect)
			redirect[2], redirect[3] = byte(sum>>8), byte(sum)
			pieces(icmpv6, redirect[:16], redirect[16:])(g)
		}, want: "invalid"},
		{name: "a piece of TCP", send: func(g *guest) {
			first := syn(g.link.IPv6.Guest.Addr(), addr(peerIPv6), 7000)
			g.send(packet{to: addr(peerIPv6), protocol: unix.IPPROTO_FRAGMENT, payload: part(unix.IPPROTO_TCP, 0, true, first)})
		}, want: nothing},
		{name: "a frame too short", send: func(g *guest) { g.frame(g.gateway, unix.ETH_P_IPV6, []byte{0x60, 0}) }, want: nothing},
		{name: "a header cut", send: func(g *guest) { g.frame(g.gateway, unix.ETH_P_IPV6, g.encodeIPv6(udpTo(addr(peerIPv6), 7000))[:40]) }, want: nothing},
	}
}

// binaryChecksum fills in the checksum of a datagram to the peer that is sent in pieces.
func binaryChecksum(g *guest, datagram []byte) {
	datagram[6], datagram[7] = 0, 0
	sum := checksumIPv6(packet{from: g.link.IPv6.Guest.Addr(), to: netip.MustParseAddr(peerIPv6), protocol: unix.IPPROTO_UDP}, datagram)
	datagram[6], datagram[7] = byte(sum>>8), byte(sum)
}

func tcpIPv6(to string, port uint16) func(*guest) {
	return func(g *guest) {
		address := netip.MustParseAddr(to)
		g.send(packet{to: address, protocol: unix.IPPROTO_TCP, payload: syn(g.link.IPv6.Guest.Addr(), address, port)})
	}
}

// policyProbesIPv6 are what a policy decides.
func policyProbesIPv6() []probe {
	var list []probe
	for _, p := range []struct{ name, policy, to, want string }{
		{"off: the world", "off", peerIPv6, "ipv6"},
		{"off: private", "off", privateIPv6, "ipv6"},
		{"closed: the world", "closed", peerIPv6, "internet"},
		{"closed: private", "closed", privateIPv6, "private"},
		{"on: private", "default", privateIPv6, "private"},
		{"on: protocol assignments", "default", "2001:2::1", "private"},
		{"private: allowed", "private", privateIPv6, arrives},
		{"private: its neighbour is not", "private", "fd00:8::1", "private"},
		{"private: the world", "private", peerIPv6, "internet"},
		{"deny: what nothing names", "deny", peerIPv6, arrives},
		{"deny: denied", "deny", nearFarIPv6, "denied"},
		{"deny: the other half", "deny", "2001:db8:6::1", "denied"},
		{"deny: allowed within", "deny", farIPv6, arrives},
		{"names: pinned", "names", otherIPv6, arrives},
		{"names: not pinned", "names", peerIPv6, "denied"},
		{"names: a private answer", "names", privateIPv6, "denied"},
	} {
		list = append(list, probe{name: p.name, policy: p.policy, send: to(p.to, p.name), want: p.want})
	}
	return append(list,
		probe{name: "off: where a gateway would be", policy: "off", send: func(g *guest) {
			g.send(packet{from: netip.MustParseAddr("fe80::2"), to: netip.MustParseAddr("ff02::1:ff00:1"), protocol: icmpv6, payload: g.neighbour(asks, 1, netip.MustParseAddr("fd57:5245:4e4e::1"))})
		}, want: "ipv6"},
		probe{name: "names: another name server", policy: "names", send: datagram("["+otherIPv6+"]:53", ""), want: "dns"},
		probe{name: "names: the same by TCP", policy: "names", send: tcpIPv6(otherIPv6, 53), want: "dns"},
		probe{name: "names: the same by TLS", policy: "names", send: tcpIPv6(otherIPv6, 853), want: "dns"},
		probe{name: "names: the same by QUIC", policy: "names", send: datagram("["+otherIPv6+"]:853", ""), want: "dns"},
		probe{name: "names: another server, by TCP", policy: "names", send: tcpIPv6(otherIPv6, 80), want: nothing})
}
