package network_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

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
	w.widen()
	n, err := w.try(network.Config{Pool: -1})
	w.must(err)
	defer func() { w.must(n.Close(t.Context(), true)) }()
	g := w.bootWith(n, alice, network.Policy{Names: true})
	peer := w.listen(w.peer, "0.0.0.0:7000")
	brief, long := netip.MustParseAddr(otherAddress), netip.MustParseAddr(farAddress)
	w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{brief, long}, 2*time.Second))
	w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{long}, time.Hour))
	w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{long}, time.Second)) // does not shorten it
	g.say(otherAddress+":7000", "first")
	w.wantDatagram(peer, "first")
	port := uint16(10_000)
	w.eventually("no more connections begin", func() bool {
		before := refused(t, n, g)["internet"]
		port++
		g.send(udpTo(brief, port))
		return refused(t, n, g)["internet"] == before+1
	})
	g.say(otherAddress+":7000", "what has begun")
	w.wantDatagram(peer, "what has begun")
	g.say(farAddress+":7000", "prolonged")
	w.wantDatagram(peer, "prolonged")
	w.must(n.SetPolicy(t.Context(), alice, network.Policy{Names: true})) // with one pin that has ended and one that has not
	w.wantExact(n)
	before := refused(t, n, g)["internet"]
	g.say(farAddress+":7000", "dropped with the policy")
	if got := refused(t, n, g)["internet"]; got != before+1 {
		t.Errorf("%d packets refused, want 1: the pin is still there", got-before)
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
