package network_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// A guest asks its gateway, and the answer comes from there; nobody else reaches the sockets.
func TestNamesAreAskedOfTheGateway(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	g := w.bootWith(n, alice, network.Policy{})
	for range 2 { // as after a restart: the guest asks again from the same port
		packets, streams, err := n.ListenDNS(t.Context())
		w.must(err)
		g.say(g.link.Gateway.String()+":53", "who is it")
		buffer := make([]byte, 100)
		w.must(packets.SetReadDeadline(time.Now().Add(patience)))
		count, from, err := packets.ReadFrom(buffer)
		if err != nil {
			t.Fatalf("%v; refused: %v", err, refused(t, n, g))
		}
		address := from.(*net.UDPAddr).AddrPort().Addr()
		if sandbox, ok := n.SandboxAt(address); string(buffer[:count]) != "who is it" || !ok || sandbox != alice {
			t.Errorf("%q from %s, which is %s", buffer[:count], address, sandbox)
		}
		if _, err := packets.WriteTo([]byte("you"), from); err != nil {
			t.Fatal(err)
		}
		p := g.wantPacket(unix.IPPROTO_UDP)
		if p.from != g.link.Gateway || binary.BigEndian.Uint16(p.payload) != 53 || string(p.payload[8:]) != "you" {
			t.Errorf("the answer came from %s port %d: %q", p.from, binary.BigEndian.Uint16(p.payload), p.payload[8:])
		}
		w.wantUnreachable(packets.LocalAddr().(*net.UDPAddr).Port)
		if err := errors.Join(packets.Close(), streams.Close()); err != nil {
			t.Fatal(err)
		}
	}
	w.must(n.Detach(t.Context(), alice))
	if _, ok := n.SandboxAt(g.link.Guest.Addr()); ok {
		t.Error("the address still belongs to the sandbox")
	}
}

// wantUnreachable checks that neither the peer nor the host itself gets through to the name server.
func (w *world) wantUnreachable(port int) {
	w.Helper()
	dial := func() error {
		conn, err := net.DialTimeout("tcp4", netip.AddrPortFrom(netip.MustParseAddr(hostAddress), uint16(port)).String(), 200*time.Millisecond)
		if err == nil {
			conn.Close()
			w.Error("somebody reached the guests' name server")
		}
		return nil
	}
	w.onPeer(dial)
	w.onHost(dial)
}

// What is refused is told, with who sent what where, and equal refusals as one.
func TestRefusalsAreTold(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	for range 5 {
		g.say("169.254.169.254:80", "credentials, please")
	}
	select {
	case r := <-n.Refusals():
		want := network.Refusal{At: r.At, Sandbox: alice, Protocol: "udp", To: netip.MustParseAddrPort("169.254.169.254:80"), Rule: "link_local", Count: r.Count}
		if r != want || r.Count < 1 || r.Count > 5 || time.Since(r.At) > time.Hour {
			t.Errorf("refusal = %+v", r)
		}
	case <-time.After(patience):
		t.Fatal("nothing was told")
	}
	w.must(n.Close(t.Context(), true))
	for range n.Refusals() { // ends
	}
}

// A guest whose refusals nobody reads, and who makes as many as it can, costs no more than the bound.
func TestRefusalsNobodyReads(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	begin := time.Now()
	for i := range 5000 {
		g.send(udpTo(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), uint16(i)))
	}
	if c, err := n.Counters(alice); err != nil || c.Refused["private"] != 5000 || c.SentPackets < 5000 {
		t.Errorf("counters = %+v, %v", c, err)
	}
	w.eventually("some are told", func() bool { return len(n.Refusals()) > 0 })
	w.must(n.Close(t.Context(), true))
	told := 0
	for r := range n.Refusals() {
		told += r.Count
	}
	if most := 5 + int(20*time.Since(begin).Seconds()+1); told == 0 || told > most {
		t.Errorf("%d refusals were told, at most 20 a second may be: %d", told, most)
	}
}

// TestNamesLimit: a guest that asks its gateway too much is refused, also where it was answered before, and from one port.
func TestNamesLimit(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	packets, streams, err := n.ListenDNS(t.Context())
	w.must(err)
	defer packets.Close()
	defer streams.Close()
	w.must(packets.SetReadDeadline(time.Now().Add(patience)))
	g.say(g.link.Gateway.String()+":53", "who is it")
	_, from, err := packets.ReadFrom(make([]byte, 100))
	w.must(err)
	_, err = packets.WriteTo([]byte("you"), from)
	w.must(err)
	g.wantPacket(unix.IPPROTO_UDP)
	for range 2000 {
		g.say(g.link.Gateway.String()+":53", "and who is it now")
	}
	if got := refused(t, n, g)["dns"]; got == 0 || got >= 2000 {
		t.Errorf("%d of 2000 questions refused: %v", got, refused(t, n, g))
	}
}

// TestRedirectsOfTheHostAreNotForGuests: what the host's own rules lead elsewhere on it is still the host.
func TestRedirectsOfTheHostAreNotForGuests(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	w.onHost(func() error {
		conn := &nftables.Conn{}
		table := conn.AddTable(&nftables.Table{Name: "proxy", Family: nftables.TableFamilyIPv4})
		chain := conn.AddChain(&nftables.Chain{
			Name: "in", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Immediate{Register: 1, Data: []byte{7001 >> 8, 7001 & 0xff}}, &expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1},
		}})
		return conn.Flush()
	})
	for i, to := range []string{g.link.Gateway.String() + ":7005", peerAddress + ":7005"} {
		g.say(to, "")
		if got := refused(t, n, g)["host"]; got != uint64(i+1) {
			t.Errorf("%s: refused %v", to, refused(t, n, g))
		}
	}
}

// One guest that opens as many connections as it can, to the world or to its gateway, is stopped at its limit, and another one is not.
func TestConnectionLimit(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	limits := network.Limits{Connections: 60, NewConnections: 10_000, Packets: 100_000}
	greedy := w.bootWith(n, alice, network.Policy{Internet: true, Limits: limits})
	modest := w.bootWith(n, bob, network.DefaultPolicy)
	for port := range uint16(500) {
		greedy.send(udpTo(netip.MustParseAddr(peerAddress), 10_000+port))
	}
	if got := refused(t, n, greedy)["connection_rate"]; got < 400 || got > 440 { // of 500 the next power of two
		t.Errorf("%d connections refused, want 436", got)
	}
	pings := w.bootWith(n, "sb-0000b1b1", network.Policy{Internet: true, Limits: limits})
	for number := range uint16(500) {
		message := binary.BigEndian.AppendUint16([]byte{8, 0, 0, 0}, number)
		message = append(message, 0, 1)
		binary.BigEndian.PutUint16(message[2:], checksum(message))
		pings.send(packet{to: pings.link.Gateway, protocol: unix.IPPROTO_ICMP, payload: message})
	}
	if got := refused(t, n, pings)["connection_rate"]; got < 400 || got > 440 {
		t.Errorf("%d pings of the gateway refused, want 436", got)
	}
	peer := w.listen(w.peer, peerAddress+":7000")
	modest.say(peerAddress+":7000", "hello")
	w.wantDatagram(peer, "hello")
}

func TestRateLimits(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	for i, test := range []struct {
		limits network.Limits
		send   func(*guest)
		rule   string
	}{
		{network.Limits{Packets: 100}, func(g *guest) { g.say(peerAddress+":7000", "x") }, "packet_rate"},
		{network.Limits{UploadBytes: 10_000}, func(g *guest) { g.say(peerAddress+":7000", strings.Repeat("x", 1000)) }, "bandwidth"},
		{network.Limits{NewConnections: 10}, func(g *guest) { g.send(udpTo(netip.MustParseAddr(peerAddress), uint16(time.Now().UnixNano()))) }, "connection_rate"},
		{network.Limits{}, func(g *guest) {
			p := udpTo(netip.MustParseAddr(peerAddress), 7000)
			p.fragment = 0x2000
			g.send(p)
		}, "fragments"},
	} {
		g := w.bootWith(n, id.Sandbox("sb-1000000"+string('0'+rune(i))), network.Policy{Internet: true, Limits: test.limits})
		for range 2000 {
			test.send(g)
		}
		if refused(t, n, g)[test.rule] == 0 {
			t.Errorf("2000 times: nothing was refused as %s: %v", test.rule, refused(t, n, g))
		}
	}
}

// An ARP message that is not about the sandbox and its gateway is neither answered nor believed.
func TestARPGames(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	victim := w.bootWith(n, bob, network.DefaultPolicy)
	claim := func(hardware net.HardwareAddr, sender, target netip.Addr) {
		message := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, hardware...)
		message = append(append(message, sender.AsSlice()...), make([]byte, 6)...)
		g.frame(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, unix.ETH_P_ARP, append(message, target.AsSlice()...))
	}
	own := g.link.Guest.Addr()
	claim(g.link.MAC, own, netip.MustParseAddr(hostAddress))            // is the host there
	claim(g.link.MAC, own, victim.link.Gateway)                         // is another there
	claim(g.link.MAC, victim.link.Guest.Addr(), g.link.Gateway)         // I am another
	claim(g.link.MAC, netip.MustParseAddr(peerAddress), g.link.Gateway) // I am the host's router
	claim(victim.link.MAC, own, g.link.Gateway)                         // with another's hardware address
	claim(g.link.MAC, netip.IPv4Unspecified(), own)                     // a probe: RFC 5227
	select {
	case mac := <-g.resolve:
		t.Errorf("%s answered", mac)
	case <-time.After(50 * time.Millisecond):
	}
	w.onHost(func() error {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, neighbour := range neighbours {
			device, _ := netlink.LinkByIndex(neighbour.LinkIndex)
			if device.Attrs().Name == g.link.TAP && !neighbour.IP.Equal(own.AsSlice()) {
				t.Errorf("the host believes that %s is at %s", neighbour.IP, g.link.TAP)
			}
		}
		return err
	})
	g.findGateway() // and what is right is answered
}

// TAPs belong to the uid of their slot and have its address, and the pool outlives the agent.
func TestPool(t *testing.T) {
	w := newWorld(t)
	n, err := w.try(network.Config{OwnerBase: 70_000, Pool: 3})
	w.must(err)
	full := func(size int) func() bool { return func() bool { return len(w.pooled()) == size } }
	w.eventually("the pool is full", full(3))
	_, link := w.attach(n, alice)
	if link.Owner != 70_000+uint32(link.Index) {
		t.Errorf("owner of slot %d = %d", link.Index, link.Owner)
	}
	w.eventually("the pool is full again", full(3))
	w.onHost(func() error {
		device, err := netlink.LinkByName(link.TAP)
		if err == nil && device.(*netlink.Tuntap).Owner != link.Owner {
			t.Errorf("owner of %s = %d, want %d", link.TAP, device.(*netlink.Tuntap).Owner, link.Owner)
		}
		return err
	})
	w.must(n.Close(t.Context(), false))
	w.wantPool(network.Config{OwnerBase: 70_000, Pool: 3, Subnet: network.DefaultSubnet})
	for _, cfg := range []network.Config{
		{OwnerBase: 80_000, Pool: 2, Subnet: network.DefaultSubnet},
		{OwnerBase: 80_000, Pool: 1, Subnet: netip.MustParsePrefix("10.9.0.0/30")}, // slot 0
		{OwnerBase: 80_000, Pool: 1, Subnet: netip.MustParsePrefix("10.9.1.0/30")}, // slot 0 again
	} {
		n, err = w.try(cfg) // others than those that are left will do
		w.must(err)
		w.must(n.Detach(t.Context(), alice))
		w.eventually("the pool has what is asked for", full(cfg.Pool))
		w.must(n.Close(t.Context(), false))
		w.wantPool(cfg)
	}
	w.must(w.open("").Close(t.Context(), true))
	w.wantPool(network.Config{})
}

// The pool of a new agent makes no second TAP for a slot whose sandbox goes on.
func TestPoolLeavesSlotsInUse(t *testing.T) {
	w := newWorld(t)
	n := w.open("10.9.0.0/29")
	w.attach(n, alice)
	w.must(n.Close(t.Context(), false))
	n = w.open("10.9.0.0/29")
	w.eventually("the pool has the TAP of the other slot", func() bool { return len(w.pooled()) == 1 })
	w.attach(n, bob)
	w.eventually("the pool has nothing left", func() bool { return len(w.pooled()) == 0 })
}
