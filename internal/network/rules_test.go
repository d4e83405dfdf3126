package network_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

const (
	alice = id.Sandbox("sb-0000a11c")
	bob   = id.Sandbox("sb-00000b0b")
)

func TestGuestReachesTheWorldAsTheHost(t *testing.T) {
	w := newWorld(t)
	_, link := w.attach(w.open(""), alice)
	g := w.boot(link)
	peer := w.listen(w.peer, peerAddress+":7000")
	g.say(peerAddress+":7000", "hello")
	from := w.wantDatagram(peer, "hello")
	if from.Addr().String() != hostAddress {
		t.Errorf("the peer saw %s, want the host's address %s", from, hostAddress)
	}
	if _, err := peer.WriteToUDPAddrPort([]byte("welcome"), from); err != nil {
		t.Fatal(err)
	}
	if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "welcome" || p.from.String() != peerAddress {
		t.Errorf("the guest received %q from %s", p.payload[8:], p.from)
	}
}

func TestPingOfTheGateway(t *testing.T) {
	w := newWorld(t)
	_, link := w.attach(w.open(""), alice)
	g := w.boot(link)
	g.send(packet{to: link.Gateway, protocol: unix.IPPROTO_ICMP, payload: ping(8)})
	if p := g.wantPacket(unix.IPPROTO_ICMP); p.payload[0] != 0 || p.from != link.Gateway {
		t.Errorf("answer type %d from %s", p.payload[0], p.from)
	}
}

// The host may open connections to a guest, and gets its answers.
func TestHostReachesGuest(t *testing.T) {
	w := newWorld(t)
	_, link := w.attach(w.open(""), alice)
	g := w.boot(link)
	host := w.listen(w.host, "0.0.0.0:7001")
	w.sayTo(host, link, "are you there")
	p := g.wantPacket(unix.IPPROTO_UDP)
	if p.from != link.Gateway {
		t.Errorf("the guest was asked by %s", p.from)
	}
	g.say(link.Gateway.String()+":7001", "yes")
	w.wantDatagram(host, "yes")
}

// Every case is a packet that a guest may send and nobody may get. The rule that must drop it
// counts it; and an allowed packet sent after it arrives as the first.
func TestGuestIsDenied(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	_, one := w.attach(n, alice)
	_, two := w.attach(n, bob)
	a, b := w.boot(one), w.boot(two)
	peer := w.listen(w.peer, peerAddress+":7000")
	host := w.listen(w.host, "0.0.0.0:7001")
	w.onHost(func() error { // to the neighbour of a cloud's metadata service, were it not for the rules
		_, metadata, _ := net.ParseCIDR("169.254.0.0/16")
		return netlink.RouteAdd(&netlink.Route{Dst: metadata, Gw: net.ParseIP(peerAddress)})
	})
	to := func(address string) packet {
		return packet{to: netip.MustParseAddr(address), protocol: unix.IPPROTO_UDP, payload: udp(7001, "denied")}
	}
	as := func(source netip.Addr) packet { p := to(peerAddress); p.from = source; return p }
	for what, test := range map[string]struct {
		packet packet
		rule   string
	}{
		"another sandbox":               {to(two.Guest.Addr().String()), "another sandbox's address"},
		"an address nobody has":         {to("10.0.200.2"), "another sandbox's address"},
		"the host's uplink":             {to(hostAddress), "the host"},
		"its gateway":                   {to(one.Gateway.String()), "the host"},
		"another's gateway":             {to(two.Gateway.String()), "the host"},
		"a ping of another's gateway":   {packet{to: two.Gateway, protocol: unix.IPPROTO_ICMP, payload: ping(8)}, "the host"},
		"a ping of the host's uplink":   {packet{to: netip.MustParseAddr(hostAddress), protocol: unix.IPPROTO_ICMP, payload: ping(8)}, "the host"},
		"its network's broadcast":       {to(one.Guest.Addr().Next().String()), "the host"},
		"cloud metadata":                {to("169.254.169.254"), "link-local, cloud metadata"},
		"multicast":                     {to("224.0.0.1"), "multicast, reserved, broadcast"},
		"broadcast":                     {to("255.255.255.255"), "multicast, reserved, broadcast"},
		"loopback":                      {to("127.0.0.1"), "loopback"},
		"address zero":                  {to("0.0.0.0"), "this network"},
		"with a foreign source":         {as(netip.MustParseAddr("192.0.2.77")), "source outside the subnet"},
		"with no source":                {as(netip.IPv4Unspecified()), "source outside the subnet"},
		"with another sandbox's source": {as(two.Guest.Addr()), "source of another sandbox"},
		"with the gateway's source":     {as(one.Gateway), "source of another sandbox"},
		"with an unused source":         {as(netip.MustParseAddr("10.0.200.2")), "source of another sandbox"},
		"an answer nobody asked for":    {packet{to: netip.MustParseAddr(peerAddress), protocol: unix.IPPROTO_ICMP, payload: ping(0)}, "invalid"},
	} {
		before := w.drops()
		a.send(test.packet)
		a.say(peerAddress+":7000", what)
		w.wantDatagram(peer, what)
		w.wantDropped(what, before, test.rule)
	}
	before := w.drops()
	a.frame(a.gateway, unix.ETH_P_IPV6, ipv6)
	w.wantDropped("IPv6", before, "no IPv6")

	w.sayTo(host, two, "first")
	if p := b.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "first" {
		t.Errorf("the other sandbox received %q", p.payload[8:])
	}
	b.say(two.Gateway.String()+":7001", "answer")
	w.wantDatagram(host, "answer")
}

// ipv6 is an empty packet from a link-local address to all nodes: RFC 8200.
var ipv6 = append([]byte{0x60, 0, 0, 0, 0, 0, 59, 1}, append(net.ParseIP("fe80::2"), net.ParseIP("ff02::1")...)...)

func TestOutsideDoesNotReachGuest(t *testing.T) {
	w := newWorld(t)
	_, link := w.attach(w.open(""), alice)
	g := w.boot(link)
	peer, host := w.listen(w.peer, peerAddress+":7000"), w.listen(w.host, "0.0.0.0:7001")
	before := w.drops()
	w.sayTo(peer, link, "from outside")
	w.eventually("the packet from outside is counted", func() bool { return w.drops()["from outside"] == before["from outside"]+1 })
	w.sayTo(host, link, "from the host")
	if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "from the host" {
		t.Errorf("the guest received %q", p.payload[8:])
	}
}

// A TAP carries 1,500 bytes and the uplink may carry less: the SYN then says so.
func TestSegmentsFitTheUplink(t *testing.T) {
	w := newWorld(t)
	for ns, device := range map[string]string{w.host: "uplink", w.peer: "peer"} {
		w.must(netns.Do(ns, func() error {
			link, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(link, 1400)
		}))
	}
	_, link := w.attach(w.open(""), alice)
	g := w.boot(link)
	var peer *net.IPConn
	w.onPeer(func() (err error) { peer, err = net.ListenIP("ip4:tcp", nil); return err })
	defer peer.Close()
	w.must(peer.SetDeadline(time.Now().Add(patience)))
	to := netip.MustParseAddr(peerAddress)
	g.send(packet{to: to, protocol: unix.IPPROTO_TCP, payload: syn(link.Guest.Addr(), to, 7002)})
	buffer := make([]byte, 100)
	n, _, err := peer.ReadFromIP(buffer)
	if err != nil || n < 24 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if got := binary.BigEndian.Uint16(buffer[22:]); got != 1400-40 {
		t.Errorf("segments of %d bytes offered to the peer, want 1360", got)
	}
}

// What the world still sends to a sandbox that is gone does not reach the next one with its address.
func TestConnectionsEndWithTheSandbox(t *testing.T) {
	w := newWorld(t)
	n := w.open("10.9.0.0/30") // a single slot
	slot, link := w.attach(n, alice)
	first := w.boot(link)
	peer := w.listen(w.peer, peerAddress+":7000")
	first.say(peerAddress+":7000", "hello")
	from := w.wantDatagram(peer, "hello")
	first.halt()
	w.must(n.Detach(t.Context(), alice))
	n.Release(slot)

	_, link = w.attach(n, bob)
	second := w.boot(link)
	if _, err := peer.WriteToUDPAddrPort([]byte("for the first"), from); err != nil {
		t.Fatal(err)
	}
	second.say(peerAddress+":7000", "anything for me?")
	next := w.wantDatagram(peer, "anything for me?")
	if _, err := peer.WriteToUDPAddrPort([]byte("for the second"), next); err != nil {
		t.Fatal(err)
	}
	if p := second.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "for the second" {
		t.Errorf("the second sandbox received %q", p.payload[8:])
	}
}

// sayTo sends a datagram to a guest's port 9000.
func (w *world) sayTo(from *net.UDPConn, link network.Link, text string) {
	w.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(link.Guest.Addr(), 9000)); err != nil {
		w.Fatal(err)
	}
}

// wantDropped checks that since before one packet more was dropped, by this rule.
func (w *world) wantDropped(what string, before map[string]uint64, rule string) {
	w.Helper()
	w.eventually(what+" is dropped as "+rule, func() bool { return w.drops()[rule] == before[rule]+1 })
	for other, count := range w.drops() {
		if other != rule && count != before[other] {
			w.Errorf("%s was dropped as %q, want %q", what, other, rule)
		}
	}
}

// drops returns how many packets each rule that drops has dropped, by its comment.
func (w *world) drops() map[string]uint64 {
	w.Helper()
	counts := map[string]uint64{}
	w.onHost(func() error {
		conn, table := &nftables.Conn{}, &nftables.Table{Name: "wrenn", Family: nftables.TableFamilyINet}
		for _, chain := range []string{"from_sandbox", "to_host", "outbound", "inbound"} {
			rules, err := conn.GetRules(table, &nftables.Chain{Name: chain})
			if err != nil {
				return err
			}
			for _, r := range rules {
				comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
				for _, e := range r.Exprs {
					if counter, ok := e.(*expr.Counter); ok {
						counts[comment] = counter.Packets
					}
				}
			}
		}
		return nil
	})
	return counts
}

// eventually waits until a condition holds.
func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not so after %s: %s", patience, what)
		}
	}
}
