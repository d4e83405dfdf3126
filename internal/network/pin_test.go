package network_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// wantExact checks that the kernel holds what the network knows.
func (w *world) wantExact(n *network.Network) {
	w.Helper()
	if drifted, err := n.Drifted(); err != nil || drifted {
		w.Errorf("the kernel's sets are not what is known of them, %v", err)
	}
}

// A pin lets connections begin until it ends; those that have begun go on. A later pin of the same address prolongs it.
func TestPinsEnd(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	w.widen()
	n, err := w.try(network.Config{Pool: -1})
	w.must(err)
	defer func() { w.must(n.Close(t.Context(), true)) }()
	policy := network.Policy{Names: true, IPv6: true}
	g := w.bootIPv6(n, policy)
	began := map[string]*conversation{}
	for brief, long := range map[string]string{otherAddress: farAddress, otherIPv6: farIPv6} {
		pin := func(ttl time.Duration, addresses ...string) {
			for _, address := range addresses {
				w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{netip.MustParseAddr(address)}, ttl))
			}
		}
		pin(2*time.Second, brief, long)
		pin(time.Hour, long)
		pin(time.Second, long) // does not shorten it
		c := &conversation{world: w, conn: w.listen(w.peer, onPort(brief))}
		g.say(onPort(brief), "first")
		c.guest = w.wantDatagram(c.conn, "first")
		began[brief] = c
	}
	port := uint16(10_000)
	for brief, c := range began {
		w.eventually("no more connections begin", func() bool {
			before := refused(t, n, g)["internet"]
			port++
			g.send(udpTo(netip.MustParseAddr(brief), port))
			return refused(t, n, g)["internet"] == before+1
		})
		c.answer("what has begun")
		w.eventually("what has begun is answered", func() bool { // after what was said of the ports where nobody listens
			select {
			case p := <-g.packets:
				return string(p.payload[8:]) == "what has begun"
			default:
				return false
			}
		})
		g.say(onPort(brief), "what has begun")
		w.wantDatagram(c.conn, "what has begun")
	}
	w.wantPins(n, "those that have not ended", []netip.Addr{netip.MustParseAddr(farAddress), netip.MustParseAddr(farIPv6)})
	for _, long := range []string{farAddress, farIPv6} {
		conn := w.listen(w.peer, onPort(long))
		g.say(onPort(long), "prolonged")
		w.wantDatagram(conn, "prolonged")
	}
	w.must(n.SetPolicy(t.Context(), alice, policy)) // with pins that have ended and some that have not
	w.wantExact(n)
	for _, long := range []string{farAddress, farIPv6} {
		before := refused(t, n, g)["internet"]
		g.say(onPort(long), "dropped with the policy")
		if got := refused(t, n, g)["internet"]; got != before+1 {
			t.Errorf("%d packets refused, want 1: the pin is still there", got-before)
		}
	}
}

// TestPinsThatCannotBe: what a name may not lead to is left out, by Pin and by a policy that takes over what was pinned.
func TestPinsThatCannotBe(t *testing.T) {
	w, n := newIPv6World(t)
	good, goodIPv6 := netip.MustParseAddr(farAddress), netip.MustParseAddr(farIPv6)
	addrs := []netip.Addr{good, goodIPv6}
	for _, bad := range []string{privateAddress, "10.1.1.1", "::ffff:192.0.2.2", "64:ff9b::1", "fe80::1", "ff0e::1", privateIPv6, "2001:2::1"} {
		addrs = append(addrs, netip.MustParseAddr(bad))
	}
	var pins []network.Pinned
	for _, addr := range addrs {
		pins = append(pins, network.Pinned{Name: "a.example", Addr: addr, Until: time.Now().Add(time.Hour)})
	}
	pins = append(pins, network.Pinned{Name: "b.example", Addr: netip.MustParseAddr(peerAddress), Until: time.Now()})
	w.bootWith(n, alice, network.Policy{Names: true})
	for _, p := range []struct {
		policy network.Policy
		want   []netip.Addr
	}{
		{network.Policy{Names: true}, []netip.Addr{good}},
		{network.Policy{Names: true, IPv6: true}, []netip.Addr{good, goodIPv6}},
		{network.Policy{Internet: true, IPv6: true}, nil},
	} {
		w.must(n.SetPolicy(t.Context(), alice, p.policy, pins...))
		w.wantPins(n, "taken over", p.want)
		if p.policy.Names {
			w.must(n.SetPolicy(t.Context(), alice, p.policy))
			w.must(n.Pin(t.Context(), alice, "a.example", addrs, time.Hour))
			w.wantPins(n, "pinned", p.want)
		}
		w.wantExact(n)
	}
	w.must(n.SetPolicy(t.Context(), alice, network.Policy{Names: true}))
	var many []netip.Addr
	for i := range 4096 {
		many = append(many, netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}))
	}
	wantCode(t, n.Pin(t.Context(), alice, "a.example", append(many, good), time.Hour), models.Exhausted, "addresses allowed by name")
	w.wantExact(n)
}

// wantPins checks what is pinned for alice.
func (w *world) wantPins(n *network.Network, how string, want []netip.Addr) {
	w.Helper()
	pins, err := n.Pins(w.Context(), alice)
	w.must(err)
	var got []netip.Addr
	for _, p := range pins {
		got = append(got, p.Addr)
	}
	slices.SortFunc(got, netip.Addr.Compare)
	if !slices.Equal(got, want) {
		w.Errorf("%s: %v, want %v", how, got, want)
	}
}

// A restart of the agent changes nothing in the kernel, and what is known afterwards is what is there; nothing is open or
// interrupted in between.
func TestRestartKeepsPoliciesAndPins(t *testing.T) {
	w := newWorld(t)
	w.widen()
	policy := network.Policy{Names: true, Allow: prefixes(peerAddress + "/32"), Limits: network.Limits{Packets: 1e6, UploadBytes: 1e9}}
	n, err := w.try(network.Config{Pool: -1})
	w.must(err)
	g := w.bootWith(n, alice, policy)
	w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{netip.MustParseAddr(otherAddress)}, time.Hour))
	w.wantExact(n)
	before := w.policies()
	pinned, bad := w.collect(w.listen(w.peer, otherAddress+":7000")), w.collect(w.listen(w.peer, farAddress+":7000"))
	flood := g.flood(farAddress + ":7000")
	for round := range uint64(3) {
		w.must(n.Close(t.Context(), false))
		n, err = w.try(network.Config{Pool: -1})
		w.must(err)
		if got := w.policies(); got != before {
			t.Errorf("after opening:\n%s\nbefore:\n%s", got, before)
		}
		slot, err := n.Take(g.link.Index)
		w.must(err)
		_, err = n.Attach(t.Context(), alice, slot, policy)
		w.must(err)
		w.wantExact(n)
		if got := w.policies(); got != before {
			t.Errorf("after attaching:\n%s\nbefore:\n%s", got, before)
		}
		g.say(otherAddress+":7000", string([]byte{0, 0, 0, 0, 0, 0, 0, byte(round)}))
		w.eventually("what is pinned is reached", func() bool { return pinned.between(round, round+1) == 1 })
	}
	flood.passed(50)
	flood.end()
	if count := bad.between(0, flood.next.Load()); count > 0 {
		t.Errorf("%d packets passed the policy", count)
	}
	w.must(n.Close(t.Context(), true))
}

// policies is what the table lists, but for what the rules themselves have added to it.
func (w *world) policies() string {
	w.Helper()
	var kept []string
	for line := range strings.Lines(w.listing("table inet wrenn")) {
		if !strings.Contains(line, "elements") || !strings.Contains(line, "ct count over") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
