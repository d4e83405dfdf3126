package network_test

import (
	"cmp"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// answer is what a peer says on a connection that was open before a policy, and what must become of it.
type answer struct {
	name   string
	from   string // the peer's address
	port   uint16
	policy network.Policy
	pinned bool   // a name leads to the peer
	want   string // arrives, or the comment of the rule that drops it
}

// The comments of the rules that drop answers.
const (
	byRule     = "" // of the policy's own, or for private ranges
	byNames    = "other name servers"
	byInternet = "no policy lets it pass"
	byIPv6     = "no IPv6 any more"
)

// answers are of a peer at an address of the world, in a network, and at a private one.
func answers(far, network24, private string) []answer {
	on, off := network.Policy{Internet: true, IPv6: true}, network.Policy{IPv6: true}
	allowing := func(p network.Policy, list ...string) network.Policy { p.Allow = prefixes(list...); return p }
	denying := func(p network.Policy, list ...string) network.Policy { p.Deny = prefixes(list...); return p }
	names := func(p network.Policy) network.Policy { p.Names = true; return p }
	only := func(address string) string { return single(address).String() }
	return []answer{
		{name: "on", from: far, policy: on, want: arrives},
		{name: "off", from: far, policy: off, want: byInternet},
		{name: "off: allowed", from: far, policy: allowing(off, network24), want: arrives},
		{name: "on: denied", from: far, policy: denying(on, network24), want: byRule},
		{name: "on: allowed within", from: far, policy: denying(allowing(on, only(far)), network24), want: arrives},
		{name: "on: private", from: private, policy: on, want: byRule},
		{name: "off: private, allowed", from: private, policy: allowing(off, only(private)), want: arrives},
		{name: "off: pinned", from: far, policy: names(off), pinned: true, want: arrives},
		{name: "off: not pinned", from: far, policy: names(off), want: byInternet},
		{name: "names: another name server", from: far, port: 53, policy: names(on), want: byNames},
		{name: "names: the same by TLS", from: far, port: 853, policy: names(on), want: byNames},
		{name: "no names: a name server", from: far, port: 53, policy: on, want: arrives},
	}
}

// single is the network of one address.
func single(address string) netip.Prefix {
	addr := netip.MustParseAddr(address)
	return netip.PrefixFrom(addr, addr.BitLen())
}

// TestAnswersFollowThePolicy: what answers a connection that was open before a policy does not arrive where the policy denies the connection, and does
// where it allows it, even if only the other side speaks.
func TestAnswersFollowThePolicy(t *testing.T) {
	w, n := newIPv6World(t)
	w.widen()
	g := w.bootIPv6(n, withIPv6)
	for _, a := range append(answers(farAddress, "198.51.100.0/24", privateAddress), answers(farIPv6, "2001:db8:7::/48", privateIPv6)...) {
		c := w.converse(n, g, netip.AddrPortFrom(netip.MustParseAddr(a.from), cmp.Or(a.port, 7000)))
		var pins []network.Pinned
		if a.pinned {
			pins = append(pins, network.Pinned{Name: "a.example", Addr: netip.MustParseAddr(a.from), Until: time.Now().Add(time.Hour)})
		}
		w.must(n.SetPolicy(t.Context(), alice, a.policy, pins...))
		before := w.drops()
		if c.answer(a.name); a.want == arrives {
			g.wantAnswer(a.name, a.from)
		} else {
			w.eventually(a.name+" from "+a.from+" is dropped", func() bool { return w.drops()[a.want] == before[a.want]+1 })
		}
		w.must(c.conn.Close())
	}
}

// TestNameServersThatAnswerByTCP: the other side repeats its answer to what opens a connection.
func TestNameServersThatAnswerByTCP(t *testing.T) {
	w, n := newIPv6World(t)
	w.widen()
	g := w.bootIPv6(n, openly)
	var services []string
	for _, address := range []string{farAddress, farIPv6} {
		for _, port := range []uint16{53, 853} {
			to := netip.AddrPortFrom(netip.MustParseAddr(address), port)
			services = append(services, to.String())
			w.onPeer(func() error {
				listener, err := net.Listen("tcp", to.String())
				if err == nil {
					t.Cleanup(func() { listener.Close() })
				}
				return err
			})
			from := g.link.Guest.Addr()
			if to.Addr().Is6() {
				from = g.link.IPv6.Guest.Addr()
			}
			g.send(packet{to: to.Addr(), protocol: unix.IPPROTO_TCP, payload: syn(from, to.Addr(), port)})
			g.wantPacket(unix.IPPROTO_TCP)
		}
	}
	w.must(n.SetPolicy(t.Context(), alice, network.Policy{Internet: true, IPv6: true, Names: true}))
	before := w.drops()[byNames]
	w.eventually("all answers are dropped", func() bool { return w.drops()[byNames] >= before+uint64(len(services)) })
	select {
	case p := <-g.packets:
		t.Errorf("the guest received %+v", p)
	default:
	}
}

// openly allows all that a test's connections need, before the policy that is tested.
var openly = network.Policy{Internet: true, IPv6: true, Allow: prefixes("172.16.0.0/12", "fd00::/8"), Limits: unbounded}

// conversation is a connection that a guest has opened to an address of the peer.
type conversation struct {
	*world
	conn  *net.UDPConn
	guest netip.AddrPort // as the peer sees it
}

// converse has a guest open a connection. Who is done closes it.
func (w *world) converse(n *network.Network, g *guest, to netip.AddrPort) *conversation {
	w.Helper()
	w.must(n.SetPolicy(w.Context(), g.sandbox, openly))
	c := &conversation{world: w, conn: w.listen(w.peer, to.String())}
	g.say(to.String(), "hello")
	c.guest = w.wantDatagram(c.conn, "hello")
	return c
}

func (c *conversation) answer(text string) {
	c.Helper()
	if _, err := c.conn.WriteToUDPAddrPort([]byte(text), c.guest); err != nil {
		c.Fatal(err)
	}
}

// wantAnswer checks what the guest receives next.
func (g *guest) wantAnswer(text, from string) {
	g.Helper()
	if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != text || p.from.String() != from {
		g.Errorf("the guest received %q from %s, want %q", p.payload[8:], p.from, text)
	}
}

// TestAnswersByIPv6EndWithIt: also what is on its way while the gateway's address is still there.
func TestAnswersByIPv6EndWithIt(t *testing.T) {
	w, n := newIPv6World(t)
	g := w.bootIPv6(n, withIPv6)
	c := w.converse(n, g, netip.MustParseAddrPort(onPort(farIPv6)))
	w.must(n.SetPolicy(t.Context(), alice, network.DefaultPolicy))
	w.onHost(func() error {
		link, err := netlink.LinkByName(g.link.TAP)
		if err != nil {
			return err
		}
		return addAddress(link, netip.PrefixFrom(g.link.IPv6.Gateway, 126).String())
	})
	before := w.drops()
	c.answer("too late")
	w.eventually("it is dropped", func() bool { return w.drops()[byIPv6] == before[byIPv6]+1 })
}

// TestNetworksOfEveryLength: a network that a policy names is found by the first bytes of an address, however many they are, in both directions.
func TestNetworksOfEveryLength(t *testing.T) {
	w, n := newIPv6World(t)
	w.widen()
	g := w.bootIPv6(n, withIPv6)
	for _, far := range []string{farAddress, farIPv6} {
		addr := netip.MustParseAddr(far)
		for length := 0; length <= addr.BitLen(); length += 8 {
			named := []netip.Prefix{netip.PrefixFrom(addr, length).Masked()}
			c := w.converse(n, g, netip.AddrPortFrom(addr, 7000))
			w.must(n.SetPolicy(t.Context(), alice, network.Policy{IPv6: true, Allow: named, Limits: unbounded}))
			c.answer(named[0].String())
			g.wantAnswer(named[0].String(), far)
			before := refused(t, n, g)
			g.say(onPort(far), "allowed")
			w.wantDatagram(c.conn, "allowed")
			if length > 0 {
				g.say(onPort(beside(named[0])), "beside it")
			}
			w.must(n.SetPolicy(t.Context(), alice, network.Policy{Internet: true, IPv6: true, Deny: named, Limits: unbounded}))
			g.say(onPort(far), "denied")
			dropped := w.drops()[byRule]
			c.answer("denied, too")
			w.eventually("the answer is dropped", func() bool { return w.drops()[byRule] == dropped+1 })
			w.must(c.conn.Close())
			after := refused(t, n, g)
			if after["denied"] != before["denied"]+1 || after["internet"] != before["internet"]+uint64(min(length, 1)) {
				t.Errorf("%s: refused %v, before %v", named[0], after, before)
			}
		}
	}
}

// beside is an address that differs from those of a network in the last bit that they have in common.
func beside(p netip.Prefix) string {
	b := p.Addr().AsSlice()
	b[p.Bits()/8-1] ^= 1
	addr, _ := netip.AddrFromSlice(b) // it was one
	return addr.String()
}
