package network_test

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// A kernel that can do less has a network all the same, and the operator is told what it lacks.
func TestOlderKernel(t *testing.T) {
	w := newWorld(t)
	n, err := w.try(network.Config{}.OnOlderKernel())
	w.must(err)
	if all := strings.Join(n.Info().Warnings, "\n"); !strings.Contains(all, "nfnetlink_log") || !strings.Contains(all, "nf_tables_arp") {
		t.Errorf("warnings = %q", all)
	}
	if _, open := <-n.Refusals(); open {
		t.Error("refusals are told")
	}
	g := w.bootWith(n, alice, network.DefaultPolicy)
	peer := w.listen(w.peer, peerAddress+":7000")
	g.say(peerAddress+":7000", "hello")
	w.wantDatagram(peer, "hello")
	g.say("169.254.169.254:80", "")
	if got := refused(t, n, g)["link_local"]; got != 1 {
		t.Errorf("%d packets refused, want 1", got)
	}
	w.must(n.Detach(t.Context(), alice))
	w.wantTAPs()
	w.must(n.Close(t.Context(), true))
}

// A table whose sets are not ours, or whose layout is another one's, is replaced as a whole. Who was attached has no network
// until it is attached again.
func TestTableOfAnotherLayoutIsReplaced(t *testing.T) {
	for name, chain := range map[string]string{"another layout": "layout_0", "sets changed": "layout_1"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n, err := w.try(network.Config{Pool: -1})
			w.must(err)
			want := w.listing("table inet wrenn")
			g := w.bootWith(n, alice, network.DefaultPolicy)
			w.must(n.Close(t.Context(), false))
			w.onHost(func() error { return foreignLayout(chain) })
			n, err = w.try(network.Config{Pool: -1})
			w.must(err)
			if got := w.listing("table inet wrenn"); got != want {
				t.Errorf("the table is now:\n%s\nwant:\n%s", got, want)
			}
			peer := w.listen(w.peer, peerAddress+":7000")
			g.say(peerAddress+":7000", "not yet")
			slot, err := n.Take(g.link.Index)
			w.must(err)
			_, err = n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
			w.must(err)
			g.say(peerAddress+":7000", "now")
			w.wantDatagram(peer, "now")
			w.must(n.Close(t.Context(), true))
		})
	}
}

// foreignLayout replaces our table by one with another set of a name that we use.
func foreignLayout(chain string) error {
	conn, table := &nftables.Conn{}, &nftables.Table{Name: "wrenn", Family: nftables.TableFamilyINet}
	conn.DelTable(table)
	conn.AddTable(table)
	conn.AddChain(&nftables.Chain{Name: chain, Table: table})
	if err := conn.AddSet(&nftables.Set{Table: table, Name: "marks", KeyType: nftables.TypeIP6Addr}, nil); err != nil {
		return err
	}
	return conn.Flush()
}

// While the host's table of connections fills, sandboxes that have many may begin no more, and those that have few may;
// also if the agent that saw it is gone.
func TestConnectionPressure(t *testing.T) {
	w := newWorld(t)
	var share atomic.Int64
	open := func() *network.Network {
		n, err := w.try(network.Config{}.Filled(&share))
		w.must(err)
		return n
	}
	n := open()
	if share, err := n.ConnectionShare(); err != nil || share < 0 || share > 1 {
		t.Errorf("share = %v, %v", share, err)
	}
	policy := network.Policy{Internet: true, Limits: network.Limits{NewConnections: 10_000}}
	greedy, modest := w.bootWith(n, alice, policy), w.bootWith(n, bob, policy)
	port := uint16(10_000)
	more := func(g *guest) uint64 { // of 20 connections, how many are refused
		before := refused(t, n, g)["connection_rate"]
		for range 20 {
			port++
			g.send(udpTo(netip.MustParseAddr(peerAddress), port))
		}
		return refused(t, n, g)["connection_rate"] - before
	}
	pressed := func() bool { return strings.Contains(w.listing("set inet wrenn pressure"), "elements") }
	for range 4 {
		more(greedy)
	}
	share.Store(80)
	w.eventually("there is pressure", pressed)
	if got := more(greedy); got != 20 {
		t.Errorf("%d of 20 connections refused under pressure", got)
	}
	if got := more(modest); got != 0 {
		t.Errorf("%d of 20 connections refused to who has few", got)
	}
	w.must(n.Close(t.Context(), false))
	share.Store(70)
	n = open()
	for _, g := range []*guest{greedy, modest} {
		slot, err := n.Take(g.link.Index)
		w.must(err)
		_, err = n.Attach(t.Context(), g.sandbox, slot, policy)
		w.must(err)
	}
	if got := more(greedy); got != 20 {
		t.Errorf("%d of 20 connections refused after a restart under pressure", got)
	}
	share.Store(50)
	w.eventually("the pressure ends", func() bool { return !pressed() })
	if got := more(greedy); got != 0 {
		t.Errorf("%d of 20 connections refused without pressure", got)
	}
	w.must(n.Close(t.Context(), true))
}

// What all sandboxes together may do is bounded, however much each may.
func TestTotalLimits(t *testing.T) {
	each := network.Limits{Packets: 1e6, UploadBytes: 1e9, DownloadBytes: 1e9, NewConnections: 1e6, Connections: 60_000}
	for rule, total := range map[string]network.Limits{
		"packet_rate": {Packets: 100}, "bandwidth": {UploadBytes: 10_000}, "connection_rate": {NewConnections: 10},
	} {
		w := newWorld(t)
		n, err := w.try(network.Config{Total: total, Limits: each})
		w.must(err)
		var sum uint64
		a, b := w.bootWith(n, alice, network.DefaultPolicy), w.bootWith(n, bob, network.DefaultPolicy)
		for port := range uint16(1000) {
			a.send(udpTo(netip.MustParseAddr(peerAddress), 10_000+port))
			b.send(udpTo(netip.MustParseAddr(peerAddress), 10_000+port))
		}
		for _, g := range []*guest{a, b} {
			sum += refused(t, n, g)[rule]
		}
		if sum == 0 {
			t.Errorf("of 2000 packets none was refused as %s", rule)
		}
		w.must(n.Close(t.Context(), true))
	}
}

// What is sent to a guest beyond its limit, or that of all, is dropped.
func TestDownloadLimits(t *testing.T) {
	little, much := network.Limits{DownloadBytes: 10_000}, network.Limits{DownloadBytes: 1e9}
	for _, test := range []struct {
		own, total network.Limits
		rule       string
	}{{little, network.Limits{}, "too many bytes"}, {much, little, "all sandboxes"}, {much, much, ""}} {
		w := newWorld(t)
		n, err := w.try(network.Config{Total: test.total})
		w.must(err)
		g := w.bootWith(n, alice, network.Policy{Internet: true, Limits: test.own})
		peer := w.listen(w.peer, peerAddress+":7000")
		g.say(peerAddress+":7000", "send")
		from := w.wantDatagram(peer, "send")
		for range 50 {
			if _, err := peer.WriteToUDPAddrPort(make([]byte, 1000), from); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := peer.WriteToUDPAddrPort(nil, from); err != nil {
			t.Fatal(err)
		}
		g.wantPacket(unix.IPPROTO_UDP)
		drops := w.drops()
		for _, rule := range []string{"too many bytes", "all sandboxes"} {
			if (drops[rule] > 0) != (rule == test.rule) {
				t.Errorf("%+v of %+v: %d dropped by %q", test.own, test.total, drops[rule], rule)
			}
		}
		w.must(n.Close(t.Context(), true))
	}
}
