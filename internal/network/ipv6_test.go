package network_test

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

var withIPv6 = network.Policy{Internet: true, IPv6: true}

// newIPv6World is a world with IPv6, whose network is opened.
func newIPv6World(t testing.TB) (*world, *network.Network) {
	t.Helper()
	w := newWorld(t)
	w.giveIPv6()
	return w, w.open("")
}

// bootIPv6 is bootWith a policy that allows IPv6, once the guest knows its gateway.
func (w *world) bootIPv6(n *network.Network, p network.Policy) *guest {
	w.Helper()
	g := w.bootWith(n, alice, p)
	g.findIPv6()
	return g
}

// hear makes a socket of the peer, on port 7000.
func (w *world) hear() *net.UDPConn { return w.listen(w.peer, "[::]:7000") }

func TestIPv6ReachesTheWorldAsTheHost(t *testing.T) {
	w, n := newIPv6World(t)
	g := w.bootIPv6(n, withIPv6)
	peer := w.hear()
	g.say(onPort(peerIPv6), "hello")
	from := w.wantDatagram(peer, "hello")
	if from.Addr().String() != hostIPv6 {
		t.Errorf("the peer saw %s, want the host's address %s", from, hostIPv6)
	}
	if _, err := peer.WriteToUDPAddrPort([]byte("welcome"), from); err != nil {
		t.Fatal(err)
	}
	if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "welcome" || p.from.String() != peerIPv6 {
		t.Errorf("the guest received %q from %s", p.payload[8:], p.from)
	}
	g.say(peerAddress+":7000", "and by IPv4")
	w.wantDatagram(peer, "and by IPv4")
	g.send(packet{to: g.link.IPv6.Gateway, protocol: icmpv6, payload: echoIPv6(128)})
	if p := g.wantPacket(icmpv6); p.payload[0] != 129 || p.from != g.link.IPv6.Gateway {
		t.Errorf("answer type %d from %s", p.payload[0], p.from)
	}
	g.send(packet{to: netip.MustParseAddr(peerIPv6), protocol: icmpv6, payload: echoIPv6(128)})
	if p := g.wantPacket(icmpv6); p.payload[0] != 129 || p.from.String() != peerIPv6 {
		t.Errorf("answer type %d from %s", p.payload[0], p.from)
	}
	g.send(udpTo(netip.MustParseAddr(peerIPv6), 7009)) // nobody listens there
	if p := g.wantPacket(icmpv6); p.payload[0] != 1 || p.from.String() != peerIPv6 {
		t.Errorf("answer type %d from %s, want that it is unreachable", p.payload[0], p.from)
	}
	if addr, why, err := n.IPv6(alice); addr != g.link.IPv6.Guest.Addr() || why != "" || err != nil {
		t.Errorf("it has %s, %q, %v", addr, why, err)
	}
}

// TestIPv6ComesAndGoes: a policy that changes gives IPv6 to a sandbox that runs, and takes it, connections too; and what was so after a restart
// of the agent goes on.
func TestIPv6ComesAndGoes(t *testing.T) {
	w, n := newIPv6World(t)
	g := w.bootWith(n, alice, network.DefaultPolicy)
	if g.link.IPv6.Guest.IsValid() || len(w.ipv6Of(g.link.TAP)) > 0 || w.knob("all/forwarding") != "0" {
		t.Errorf("without IPv6: %+v, addresses %v, forwarding %s", g.link.IPv6, w.ipv6Of(g.link.TAP), w.knob("all/forwarding"))
	}
	g.link.IPv6 = placeOf(g.link.Index)
	peer := w.hear()
	for range 2 {
		w.must(n.SetPolicy(t.Context(), alice, withIPv6))
		g.findIPv6()
		g.say(onPort(peerIPv6), "on")
		from := w.wantDatagram(peer, "on")
		w.must(n.SetPolicy(t.Context(), alice, network.Policy{IPv6: true, Allow: prefixes("2001:db8::/33")}))
		g.say(onPort(peerIPv6), "still allowed")
		w.wantDatagram(peer, "still allowed")
		w.must(n.SetPolicy(t.Context(), alice, network.DefaultPolicy))
		before := w.drops()["from outside"]
		if _, err := peer.WriteToUDPAddrPort([]byte("too late"), from); err != nil {
			t.Fatal(err)
		}
		g.say(onPort(peerIPv6), "off")
		g.say(peerAddress+":7000", "by IPv4")
		w.wantDatagram(peer, "by IPv4")
		if addresses := w.ipv6Of(g.link.TAP); len(addresses) > 0 {
			t.Errorf("the TAP keeps %v", addresses)
		}
		if got := w.drops()["from outside"]; got != before {
			t.Errorf("%d packets came to a TAP that has no address", got-before)
		}
	}
	w.wantExact(n)
}

// TestRestartKeepsIPv6: an agent that comes after another finds what there is, and interrupts nothing.
func TestRestartKeepsIPv6(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	policy := network.Policy{IPv6: true, Names: true, Allow: prefixes(peerIPv6 + "/128"), Deny: prefixes("2001:db8:8::/45"), Limits: unbounded}
	n, err := w.try(network.Config{Pool: -1})
	w.must(err)
	g := w.bootIPv6(n, policy)
	w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{netip.MustParseAddr(otherIPv6)}, time.Hour))
	w.wantExact(n)
	before := w.policies()
	peer := w.listen(w.peer, onPort(otherIPv6))
	g.say(onPort(otherIPv6), "pinned")
	from := w.wantDatagram(peer, "pinned")
	for range 2 {
		w.must(n.Close(t.Context(), false))
		n, err = w.try(network.Config{Pool: -1})
		w.must(err)
		if pins, err := n.Pins(t.Context(), alice); err != nil || len(pins) != 1 || pins[0].Name != "a.example" || pins[0].Addr.String() != otherIPv6 {
			t.Errorf("pins before it is attached: %+v, %v", pins, err)
		}
		if _, err := peer.WriteToUDPAddrPort([]byte("meanwhile"), from); err != nil {
			t.Fatal(err)
		}
		if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "meanwhile" {
			t.Errorf("the guest received %q", p.payload[8:])
		}
		slot, err := n.Take(g.link.Index)
		w.must(err)
		link, err := n.Attach(t.Context(), alice, slot, policy)
		w.must(err)
		if link.IPv6 != g.link.IPv6 {
			t.Errorf("it has %+v, and had %+v", link.IPv6, g.link.IPv6)
		}
		w.wantExact(n)
		if got := w.policies(); got != before {
			t.Errorf("after attaching:\n%s\nbefore:\n%s", got, before)
		}
	}
	pins, err := n.Pins(t.Context(), alice)
	w.must(err)
	w.must(n.SetPolicy(t.Context(), alice, network.Policy{IPv6: true, Names: true}, pins...))
	w.wantExact(n)
	g.say(onPort(otherIPv6), "pinned by the next policy")
	w.wantDatagram(peer, "pinned by the next policy")
	w.must(n.SetPolicy(t.Context(), alice, network.Policy{Names: true}, pins...)) // no IPv6: nothing to pin
	w.wantExact(n)
	w.must(n.Close(t.Context(), true))
}

// TestRestartMendsIPv6: an agent that comes after one that was killed makes the gateway's address what the policy says, or takes it away with the TAP.
func TestRestartMendsIPv6(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	n, err := w.try(network.Config{Pool: -1})
	w.must(err)
	g := w.bootIPv6(n, withIPv6)
	again := func() network.Slot {
		w.must(n.Close(t.Context(), false))
		n, err = w.try(network.Config{Pool: -1})
		w.must(err)
		slot, err := n.Take(g.link.Index)
		w.must(err)
		return slot
	}
	for _, step := range []struct {
		policy network.Policy
		before func(netlink.Link, *netlink.Addr) error
		want   int
	}{
		{withIPv6, netlink.AddrDel, 1}, // killed before there was one
		{network.DefaultPolicy, nil, 0},
		{network.DefaultPolicy, netlink.AddrAdd, 0}, // killed before it was gone
		{withIPv6, nil, 1},
	} {
		slot := again()
		if step.before != nil {
			w.onHost(func() error {
				link, err := netlink.LinkByName(g.link.TAP)
				if err != nil {
					return err
				}
				return step.before(link, &netlink.Addr{IPNet: &net.IPNet{IP: g.link.IPv6.Gateway.AsSlice(), Mask: net.CIDRMask(126, 128)}, Flags: unix.IFA_F_NODAD})
			})
		}
		_, err = n.Attach(t.Context(), alice, slot, step.policy)
		w.must(err)
		if got := w.ipv6Of(g.link.TAP); len(got) != step.want {
			t.Errorf("with %+v the TAP has %v", step.policy, got)
		}
	}
	again()
	w.must(n.Detach(t.Context(), alice)) // which nobody has attached since
	w.onHost(func() error {
		addresses, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, address := range addresses {
			if address.IP.Equal(g.link.IPv6.Gateway.AsSlice()) {
				t.Errorf("there is still %s", address)
			}
		}
		return err
	})
	w.must(n.Close(t.Context(), true))
}

// TestIPv6EndsWithinAPacket: what has passed the first rules while a policy allowed IPv6 does not pass the others when it no longer does.
func TestIPv6EndsWithinAPacket(t *testing.T) {
	w, n := newIPv6World(t)
	w.set("all/forwarding", "1")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	g.link.IPv6 = placeOf(g.link.Index)
	device := w.index(g.link.TAP)
	w.onHost(func() error { // as the sets were a moment ago
		conn, table := &nftables.Conn{}, &nftables.Table{Name: "wrenn", Family: nftables.TableFamilyINet}
		for name, key := range map[string][]byte{"ipv6_devices": device, "guests_ipv6": slices.Concat(device, g.link.MAC, []byte{0, 0}, g.link.IPv6.Guest.Addr().AsSlice())} {
			set, err := conn.GetSetByName(table, name)
			if err != nil {
				return err
			}
			if err := conn.SetAddElements(set, []nftables.SetElement{{Key: key}}); err != nil {
				return err
			}
		}
		return conn.Flush()
	})
	g.say(onPort(peerIPv6), "by IPv6")
	if got := refused(t, n, g); got["ipv6"] != 1 || got["spoofed"] != 0 {
		t.Errorf("refused %v", got)
	}
}

// index is the number of a device of the host, as it is in the keys of the sets.
func (w *world) index(name string) (key []byte) {
	w.Helper()
	w.onHost(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			key = binary.NativeEndian.AppendUint32(nil, uint32(link.Attrs().Index))
		}
		return err
	})
	return key
}

// TestFloodWhileIPv6Flips: what a guest sends by IPv6 after that was taken, and before it is given again, never arrives; nor does what it sends
// from the first moment.
func TestFloodWhileIPv6Flips(t *testing.T) {
	w, n := newIPv6World(t)
	on, off := network.Policy{Internet: true, IPv6: true, Limits: unbounded}, network.Policy{Internet: true, Limits: unbounded}
	g := w.bootWith(n, alice, off)
	g.link.IPv6 = placeOf(g.link.Index)
	got := w.collect(w.hear())
	f := g.flood(onPort(peerIPv6))
	closed := [][2]uint64{{0, f.passed(50) - 1}}
	for i := range 20 {
		w.must(n.SetPolicy(t.Context(), alice, on))
		from := f.next.Load()
		f.passed(100)
		then := off
		if i%2 == 1 {
			then = network.Policy{Internet: true, IPv6: true, Deny: prefixes("2001:db8::/31"), Limits: unbounded}
		}
		w.must(n.SetPolicy(t.Context(), alice, then))
		closed = append(closed, [2]uint64{f.next.Load(), f.passed(50) - 1})
		w.eventually("the flood passes while IPv6 is on", func() bool { return got.between(from, math.MaxUint64) > 0 })
	}
	f.end()
	for _, interval := range closed {
		if count := got.between(interval[0], interval[1]); count > 0 {
			t.Errorf("%d packets passed while the policy was closed, from number %d on", count, interval[0])
		}
	}
}

func TestOutsideDoesNotReachGuestByIPv6(t *testing.T) {
	w, n := newIPv6World(t)
	g := w.bootIPv6(n, withIPv6)
	peer, host := w.hear(), w.listen(w.host, "[::]:7001")
	before := w.drops()
	to := netip.AddrPortFrom(g.link.IPv6.Guest.Addr(), 9000)
	if _, err := peer.WriteToUDPAddrPort([]byte("from outside"), to); err != nil {
		t.Fatal(err)
	}
	w.eventually("the packet from outside is counted", func() bool { return w.drops()["from outside"] == before["from outside"]+1 })
	if _, err := host.WriteToUDPAddrPort([]byte("from the host"), to); err != nil {
		t.Fatal(err)
	}
	if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "from the host" {
		t.Errorf("the guest received %q", p.payload[8:])
	}
}

// What the world still sends to a sandbox that is gone does not reach the next one with its address.
func TestIPv6ConnectionsEndWithTheSandbox(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	n := w.open("10.9.0.0/29")
	peer := w.hear()
	var last netip.AddrPort
	for _, sandbox := range []string{"the first", "the second"} {
		slot, err := n.Take(1) // both have it
		w.must(err)
		link, err := n.Attach(t.Context(), alice, slot, withIPv6)
		w.must(err)
		g := w.boot(link)
		g.findIPv6()
		if last.IsValid() {
			if _, err := peer.WriteToUDPAddrPort([]byte("for the first"), last); err != nil {
				t.Fatal(err)
			}
		}
		g.say(onPort(peerIPv6), sandbox)
		last = w.wantDatagram(peer, sandbox)
		if _, err := peer.WriteToUDPAddrPort([]byte("for "+sandbox), last); err != nil {
			t.Fatal(err)
		}
		if p := g.wantPacket(unix.IPPROTO_UDP); string(p.payload[8:]) != "for "+sandbox {
			t.Errorf("%s received %q", sandbox, p.payload[8:])
		}
		g.halt()
		w.must(n.Detach(t.Context(), alice))
		n.Release(slot)
	}
	w.onHost(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.Dst != nil && network.DefaultSubnetIPv6.Contains(netip.MustParseAddr(r.Dst.IP.String())) {
				t.Errorf("there is still %s", r)
			}
		}
		return err
	})
}

// TestHostWithoutIPv6: a policy that allows IPv6 is in force on a host that has none, without any, and says why; once the host has it, the next policy gives it.
func TestHostWithoutIPv6(t *testing.T) {
	for what, test := range map[string]struct {
		change, back func(*world)
		says         string
		seen         uint64 // how many of the guest's packets the rules get to see
	}{
		"switched off": {
			func(w *world) { w.set("default/disable_ipv6", "1") }, func(w *world) { w.set("default/disable_ipv6", "0") },
			"net.ipv6.conf.default.disable_ipv6", 0,
		},
		"a route in the way": {
			func(w *world) {
				w.onHost(func() error { return addRoute(&netlink.Route{Gw: net.ParseIP(peerIPv6)}, "fd57:5245::/32") })
			},
			func(w *world) {
				w.onHost(func() error {
					_, dst, err := net.ParseCIDR("fd57:5245::/32")
					if err != nil {
						return err
					}
					return netlink.RouteDel(&netlink.Route{Dst: dst, Gw: net.ParseIP(peerIPv6)})
				})
			}, "collides with the host's route to fd57:5245::/32", 1,
		},
		"an address in the way": {
			func(w *world) { w.onHost(func() error { return addressInTheWay(netlink.AddrAdd) }) },
			func(w *world) { w.onHost(func() error { return addressInTheWay(netlink.AddrDel) }) },
			"collides with the host's route to fd57:5245:4e4e::7/128", 1,
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.giveIPv6()
			test.change(w)
			n, err := w.try(network.Config{Pool: -1})
			w.must(err)
			defer func() { w.must(n.Close(t.Context(), true)) }()
			g := w.bootWith(n, alice, withIPv6)
			if addr, why, err := n.IPv6(alice); err != nil || addr.IsValid() || !strings.Contains(why, test.says) || g.link.IPv6.Guest.IsValid() {
				t.Errorf("it has %s and %+v, %q, %v", addr, g.link.IPv6, why, err)
			}
			g.link.IPv6 = placeOf(g.link.Index)
			peer := w.hear()
			g.say(onPort(peerIPv6), "by IPv6")
			g.say(peerAddress+":7000", "by IPv4")
			w.wantDatagram(peer, "by IPv4")
			if got := refused(t, n, g)["ipv6"]; got != test.seen || w.knob("all/forwarding") != "0" {
				t.Errorf("%d packets refused, want %d; forwarding is %s", got, test.seen, w.knob("all/forwarding"))
			}
			test.back(w)
			if what == "switched off" { // the device was made without
				w.set(g.link.TAP+"/disable_ipv6", "0")
			}
			w.must(n.SetPolicy(t.Context(), alice, withIPv6))
			g.findIPv6()
			g.say(onPort(peerIPv6), "by IPv6")
			w.wantDatagram(peer, "by IPv6")
		})
	}
}

// TestHostThatCannotBeConfigured: as in a container, or where the kernel was built without IPv6: the policy is in force without it, and says why.
func TestHostThatCannotBeConfigured(t *testing.T) {
	const ipv6 = "/proc/sys/net/ipv6"
	for says, mount := range map[string]func() error{
		"sysctl -w net.ipv6.conf.all.forwarding=1": func() error {
			return errors.Join(unix.Mount(ipv6, ipv6, "", unix.MS_BIND, ""), unix.Mount("", ipv6, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		},
		"kernel has no IPv6": func() error { return unix.Mount("none", ipv6, "tmpfs", 0, "") },
	} {
		w := newWorld(t)
		w.giveIPv6()
		n, err := w.try(network.Config{Pool: -1}.Behind(mount))
		w.must(err)
		defer func() { w.must(n.Close(t.Context(), true)) }()
		g := w.bootWith(n, alice, withIPv6)
		if addr, why, err := n.IPv6(alice); err != nil || addr.IsValid() || !strings.Contains(why, says) || g.link.IPv6.Guest.IsValid() {
			t.Errorf("it has %s and %+v, %q, %v, want %q", addr, g.link.IPv6, why, err, says)
		}
		w.must(n.SetPolicy(t.Context(), alice, network.Policy{IPv6: true}))
		w.wantExact(n)
	}
}

// TestKnobsThatFail: an error of the host is told, nothing is left of what was begun, and a policy that was in force still is.
func TestKnobsThatFail(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	n, err := w.try(network.Config{Pool: -1}.Behind(func() error { return unix.EIO }))
	w.must(err)
	defer func() { w.must(n.Close(t.Context(), true)) }()
	slot, err := n.Reserve(t.Context())
	w.must(err)
	if _, err := n.Attach(t.Context(), alice, slot, withIPv6); !errors.Is(err, unix.EIO) {
		t.Errorf("attached: %v", err)
	}
	w.wantTAPs()
	_, err = n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	w.must(err)
	before := w.policies()
	if err := n.SetPolicy(t.Context(), alice, network.Policy{IPv6: true}); !errors.Is(err, unix.EIO) {
		t.Errorf("policy set: %v", err)
	}
	if now := w.policies(); now != before {
		t.Errorf("the table is now:\n%s\nbefore:\n%s", now, before)
	}
}

// addressInTheWay adds or removes an address of the sandboxes' network that has no route but the one that makes it local.
func addressInTheWay(change func(netlink.Link, *netlink.Addr) error) error {
	link, err := netlink.LinkByName("uplink")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("fd57:5245:4e4e::7/128")
	if err != nil {
		return err
	}
	addr.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	return change(link, addr)
}

// TestFirewallInTheWayOfIPv6IsTold: to who has IPv6, and to nobody else.
func TestFirewallInTheWayOfIPv6IsTold(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	w.addFilterOf(nftables.TableFamilyIPv6, "filter", nftables.ChainPolicyDrop)
	n := w.open("")
	if warnings := n.Info().Warnings; len(warnings) > 0 {
		t.Errorf("warnings = %q", warnings)
	}
	w.bootWith(n, bob, network.DefaultPolicy)
	w.bootIPv6(n, withIPv6)
	if _, why, err := n.IPv6(bob); err != nil || why != "" {
		t.Errorf("who has no IPv6 is told %q, %v", why, err)
	}
	if addr, why, err := n.IPv6(alice); err != nil || !addr.IsValid() || !strings.Contains(why, "FORWARD of the host's nftables table filter") {
		t.Errorf("it has %s, %q, %v", addr, why, err)
	}
}

// TestForwardingKeepsAdvertisements: a host that is made to forward goes on to listen to its router, and to no other; nothing is changed before it must be.
func TestForwardingKeepsAdvertisements(t *testing.T) {
	w, n := newIPv6World(t)
	w.set("uplink/accept_ra", "1")
	w.set("lo/accept_ra", "0")
	w.bootWith(n, bob, network.DefaultPolicy)
	if w.knob("all/forwarding") != "0" || w.knob("uplink/accept_ra") != "1" {
		t.Error("the host is changed for a sandbox without IPv6")
	}
	w.bootIPv6(n, withIPv6)
	if w.knob("all/forwarding") != "1" || w.knob("uplink/accept_ra") != "2" || w.knob("lo/accept_ra") != "0" {
		t.Errorf("forwarding %s, accept_ra %s, and %s of a device that listens to nobody", w.knob("all/forwarding"), w.knob("uplink/accept_ra"), w.knob("lo/accept_ra"))
	}
}

// TestForwardingHostIsLeftAlone: of a host that forwards IPv6 already nothing is changed.
func TestForwardingHostIsLeftAlone(t *testing.T) {
	w, n := newIPv6World(t)
	w.set("all/forwarding", "1")
	w.set("uplink/accept_ra", "1")
	w.bootIPv6(n, withIPv6)
	if w.knob("all/forwarding") != "1" || w.knob("uplink/accept_ra") != "1" {
		t.Errorf("forwarding %s, accept_ra %s", w.knob("all/forwarding"), w.knob("uplink/accept_ra"))
	}
}

// TestNeighbourGames: what a guest says of where it is, or others are, is not believed: the host knows.
func TestNeighbourGames(t *testing.T) {
	w, n := newIPv6World(t)
	g := w.bootIPv6(n, withIPv6)
	heard := w.hear()
	elsewhere := net.HardwareAddr{0x06, 'W', 1, 2, 3, 4}
	lie := func(kind, option byte, from, about netip.Addr, to netip.Addr) {
		message := g.neighbour(kind, option, about)
		copy(message[len(message)-len(elsewhere):], elsewhere)
		g.send(packet{from: from, to: to, protocol: icmpv6, payload: message})
	}
	own, gateway, peer := g.link.IPv6.Guest.Addr(), g.link.IPv6.Gateway, netip.MustParseAddr(peerIPv6)
	lie(asks, 1, own, gateway, groupOf(gateway)) // I am there
	lie(asks, 1, own, gateway, gateway)
	lie(advertises, 2, own, own, gateway)
	lie(advertises, 2, own, peer, gateway) // your router is there
	lie(asks, 1, peer, gateway, gateway)   // I am your router
	g.say(onPort(peerIPv6), "after all that")
	w.wantDatagram(heard, "after all that")
	w.onHost(func() error {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V6)
		known := false
		for _, neighbour := range neighbours {
			device, err := netlink.LinkByIndex(neighbour.LinkIndex)
			if err != nil || device.Attrs().Name != g.link.TAP || neighbour.State == netlink.NUD_NOARP { // a group
				continue
			}
			known = true
			if !neighbour.IP.Equal(own.AsSlice()) || neighbour.HardwareAddr.String() != g.link.MAC.String() || neighbour.State != netlink.NUD_PERMANENT {
				t.Errorf("the host believes %+v", neighbour)
			}
		}
		if !known {
			t.Error("the host does not know where the guest is")
		}
		return err
	})
}

// TestUplinkOfIPv6IsFollowed: what a sandbox sends leaves by the way that the host has, and it is told when there is none.
func TestUplinkOfIPv6IsFollowed(t *testing.T) {
	w, n := newIPv6World(t)
	other := w.addUplink()
	const hostThere, peerThere = "2001:db8:1::1", "2001:db8:1::2"
	w.must(netns.Do(other, func() error { return setUpIPv6("peer", "::/0", hostThere, peerThere+"/64", otherIPv6+"/128") }))
	w.onHost(func() error { return setUpIPv6("uplink2", "2001:db8:ffff::/48", peerThere, hostThere+"/64") })
	g := w.bootIPv6(n, withIPv6)
	first, second := w.listen(w.peer, "["+otherIPv6+"]:7000"), w.listen(other, "["+otherIPv6+"]:7000")
	for _, side := range []struct {
		uplink, gateway, seenAs string
		peer                    *net.UDPConn
	}{{"uplink", peerIPv6, hostIPv6, first}, {"uplink2", peerThere, hostThere, second}} {
		w.leadIPv6(side.gateway)
		w.eventually("the uplink is told", func() bool { return n.Info().UplinkIPv6 == side.uplink })
		w.eventually("the guest's datagrams leave by it", func() bool {
			g.say(onPort(otherIPv6), "hello")
			w.must(side.peer.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
			_, from, err := side.peer.ReadFromUDPAddrPort(make([]byte, 100))
			if err == nil && from.Addr().String() != side.seenAs {
				t.Errorf("by %s it was seen as %s, want %s", side.uplink, from, side.seenAs)
			}
			return err == nil
		})
	}
	w.leadIPv6("")
	w.eventually("it is told that there is none", func() bool {
		_, why, err := n.IPv6(alice)
		return err == nil && strings.Contains(why, "no route") && n.Info().Uplink == "uplink"
	})
}

// leadIPv6 sets the host's default route by IPv6; "" leaves none.
func (w *world) leadIPv6(gateway string) {
	w.Helper()
	w.onHost(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
		for _, r := range routes {
			if err == nil && (r.Dst == nil || r.Dst.String() == "::/0") {
				err = netlink.RouteDel(&r)
			}
		}
		if err != nil || gateway == "" {
			return err
		}
		return addRoute(&netlink.Route{Gw: net.ParseIP(gateway)}, "::/0")
	})
}

// TestLimitsOfIPv6: what bounds a sandbox does so by IPv6, too, and both together.
func TestLimitsOfIPv6(t *testing.T) {
	w, n := newIPv6World(t)
	g := w.bootIPv6(n, network.Policy{Internet: true, IPv6: true, Limits: network.Limits{Connections: 60, NewConnections: 10_000, Packets: 100_000}})
	peer := netip.MustParseAddr(peerIPv6)
	for port := range uint16(100) {
		g.send(udpTo(netip.MustParseAddr(peerAddress), 10_000+port))
		g.send(udpTo(peer, 10_000+port))
	}
	if got := refused(t, n, g)["connection_rate"]; got < 100 || got > 140 { // of 200 the next power of two
		t.Errorf("%d connections refused, want 136", got)
	}
	for what, send := range map[string]func(){
		"packet_rate": func() { g.say(onPort(peerIPv6), "x") },
		"bandwidth":   func() { g.say(onPort(peerIPv6), strings.Repeat("x", 1000)) },
		"fragments": func() {
			g.send(packet{to: peer, protocol: unix.IPPROTO_FRAGMENT, payload: part(unix.IPPROTO_UDP, 0, true, make([]byte, 16))})
		},
	} {
		limits := network.Limits{NewConnections: 10_000}
		switch what {
		case "packet_rate":
			limits.Packets = 100
		case "bandwidth":
			limits.UploadBytes = 10_000
		}
		w.must(n.SetPolicy(t.Context(), alice, network.Policy{Internet: true, IPv6: true, Limits: limits}))
		before := refused(t, n, g)[what]
		for range 2000 {
			send()
		}
		if refused(t, n, g)[what] == before {
			t.Errorf("2000 times: nothing was refused as %s", what)
		}
	}
	w.must(n.SetPolicy(t.Context(), alice, withIPv6))
	heard := w.hear()
	before := g.told.Load()
	for range 2000 {
		g.asksFor(g.link.IPv6.Gateway, g.link.IPv6.Gateway)
	}
	g.say(onPort(peerIPv6), "after the questions")
	w.wantDatagram(heard, "after the questions")
	g.send(packet{to: g.link.IPv6.Gateway, protocol: icmpv6, payload: echoIPv6(128)})
	w.eventually("the answer to what came last", func() bool {
		select {
		case p := <-g.packets:
			return p.protocol == icmpv6 && p.payload[0] == 129
		default:
			return false
		}
	})
	if answered := g.told.Load() - before; answered == 0 || answered > 1000 {
		t.Errorf("%d of 2000 questions for the gateway answered at once", answered)
	}
}

// ipv6Of are the IPv6 addresses of a device of the host.
func (w *world) ipv6Of(name string) (addresses []netlink.Addr) {
	w.Helper()
	w.onHost(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			addresses, err = netlink.AddrList(link, netlink.FAMILY_V6)
		}
		return err
	})
	return addresses
}

// knob is a setting of the host, below net.ipv6.conf.
func (w *world) knob(name string) (value string) {
	w.Helper()
	w.onHost(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name)
		value = strings.TrimSpace(string(b))
		return err
	})
	return value
}

func (w *world) set(name, value string) {
	w.Helper()
	w.onHost(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/"+name, []byte(value), 0) })
}
