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

// drops returns how many packets each rule that drops has dropped, by its comment.
func (w *world) drops() map[string]uint64 {
	w.Helper()
	counts := map[string]uint64{}
	w.onHost(func() error {
		conn, table := &nftables.Conn{}, &nftables.Table{Name: "wrenn", Family: nftables.TableFamilyINet}
		rules, err := conn.GetRules(table, &nftables.Chain{Name: "inbound"})
		if err != nil {
			return err
		}
		answers, err := conn.GetRules(table, &nftables.Chain{Name: "answers"})
		for _, r := range append(rules, answers...) {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					counts[comment] += counter.Packets
				}
			}
		}
		return err
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
