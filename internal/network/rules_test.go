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

// A TAP carries 1,500 bytes and the uplink may carry less: who opens a connection is told so, and who answers.
func TestSegmentsFitTheUplink(t *testing.T) {
	w, n := newIPv6World(t)
	w.onHost(func() error {
		link, err := netlink.LinkByName("uplink")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, 1400)
	})
	g := w.bootIPv6(n, withIPv6)
	for _, side := range []struct {
		network, peer string
		guest         netip.Addr
		want          uint16
	}{{"ip4:tcp", peerAddress, g.link.Guest.Addr(), 1400 - 40}, {"ip6:tcp", peerIPv6, g.link.IPv6.Guest.Addr(), 1400 - 60}} {
		to := netip.AddrPortFrom(netip.MustParseAddr(side.peer), 7002)
		var peer *net.IPConn
		w.onPeer(func() (err error) {
			if peer, err = net.ListenIP(side.network, nil); err != nil {
				return err
			}
			listener, err := net.Listen("tcp", to.String())
			if err == nil {
				t.Cleanup(func() { listener.Close() })
			}
			return err
		})
		defer peer.Close()
		w.must(peer.SetDeadline(time.Now().Add(patience)))
		g.send(packet{to: to.Addr(), protocol: unix.IPPROTO_TCP, payload: syn(side.guest, to.Addr(), to.Port())})
		buffer := make([]byte, 100)
		count, _, err := peer.ReadFromIP(buffer)
		if err != nil || count < 24 {
			t.Fatalf("%s: %d bytes, %v", side.network, count, err)
		}
		answer := g.wantPacket(unix.IPPROTO_TCP).payload
		for who, segment := range map[string][]byte{"the peer": buffer, "the guest": answer} {
			if got := binary.BigEndian.Uint16(segment[22:]); got != side.want {
				t.Errorf("%s: segments of %d bytes offered to %s, want %d", side.network, got, who, side.want)
			}
		}
	}
}

// What the host has a route to by a sandbox's TAP, as somebody's mistake may make one, no other sandbox reaches.
func TestRoutesByATAPLeadNowhere(t *testing.T) {
	w, n := newIPv6World(t)
	other := w.bootWith(n, bob, withIPv6)
	g := w.bootIPv6(n, withIPv6)
	w.onHost(func() error {
		link, err := netlink.LinkByName(other.link.TAP)
		for _, to := range []string{"203.0.113.0/24", "2001:db8:5::/48"} {
			if err == nil {
				err = addRoute(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}, to)
			}
		}
		return err
	})
	for i, to := range []string{"203.0.113.5", "2001:db8:5::5"} {
		g.say(onPort(to), "")
		if got := refused(t, n, g)["sandbox"]; got != uint64(i+1) {
			t.Errorf("%s: refused %v", to, refused(t, n, g))
		}
	}
}

// What the world still sends to a sandbox that is gone does not reach the next one with its address.
func TestConnectionsEndWithTheSandbox(t *testing.T) {
	w := newWorld(t)
	n := w.open("10.9.0.0/29")
	const index = 1 // of the slot that both have
	attach := func(sandbox id.Sandbox) (network.Slot, network.Link) {
		slot, err := n.Take(index)
		w.must(err)
		link, err := n.Attach(t.Context(), sandbox, slot, network.DefaultPolicy)
		w.must(err)
		return slot, link
	}
	slot, link := attach(alice)
	first := w.boot(link)
	peer := w.listen(w.peer, peerAddress+":7000")
	first.say(peerAddress+":7000", "hello")
	from := w.wantDatagram(peer, "hello")
	first.halt()
	w.must(n.Detach(t.Context(), alice))
	n.Release(slot)

	_, link = attach(bob)
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

// drops returns how many packets to guests each rule that drops has dropped, by its comment.
func (w *world) drops() map[string]uint64 {
	w.Helper()
	counts := map[string]uint64{}
	w.onHost(func() error {
		conn, table := &nftables.Conn{}, &nftables.Table{Name: "wrenn", Family: nftables.TableFamilyINet}
		for _, chain := range []string{"inbound", "answers", "answers_ipv6", "own_rules_arriving", "own_rules_ipv6_arriving"} {
			rules, err := conn.GetRules(table, &nftables.Chain{Name: chain})
			if err != nil {
				return err
			}
			for _, r := range rules {
				comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
				for _, e := range r.Exprs {
					if counter, ok := e.(*expr.Counter); ok {
						counts[comment] += counter.Packets
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
