package network_test

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func TestSubnetThatCollides(t *testing.T) {
	for what, add := range map[string]func(netlink.Link) error{
		"an address within": func(l netlink.Link) error { return addAddress(l, "10.0.5.1/24") },
		"a single address":  func(l netlink.Link) error { return addAddress(l, "10.0.200.7/32") },
		"a route around": func(l netlink.Link) error {
			return addRoute(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK}, "10.0.0.0/8")
		},
		"a route in another table": func(l netlink.Link) error {
			return addRoute(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Table: 77}, "10.0.7.0/24")
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.addDevice(add)
			_, err := w.try(network.Config{})
			wantCode(t, err, models.Precondition, "is free here")
			hint := models.AsError(err).Hint
			for _, word := range strings.Fields(hint) {
				if free, err := netip.ParsePrefix(word); err == nil {
					w.open(free.String())
					return
				}
			}
			t.Errorf("the hint %q names no subnet", hint)
		})
	}
}

func TestSubnetsThatDoNotCollide(t *testing.T) {
	w := newWorld(t)
	w.addDevice(func(l netlink.Link) error {
		for _, half := range []string{"0.0.0.0/1", "128.0.0.0/1", "10.1.0.0/16"} {
			if err := addRoute(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK}, half); err != nil {
				return err
			}
		}
		return nil
	})
	n := w.open("")
	w.attach(n, alice)
	w.must(n.Close(t.Context(), false))
	w.open("") // our own TAPs are no collision
}

// A network of ours that the host gets after Open, when the pool has its TAPs already, is not handed out.
func TestReservePassesOverWhatIsThere(t *testing.T) {
	w := newWorld(t)
	n := w.open("10.9.0.0/29")
	w.eventually("both slots have a TAP", func() bool { return n.Ready() == 2 })
	w.addDevice(func(l netlink.Link) error { return addAddress(l, "10.9.0.1/30") })
	slot, err := n.Reserve(t.Context())
	if err != nil || slot.Index != 1 {
		t.Errorf("reserved %+v, %v; want the second slot", slot, err)
	}
	_, err = n.Reserve(t.Context())
	wantCode(t, err, models.Exhausted, "2")
}

// A slot that the pool has begun to work on, and has not looked at yet, may be somebody else's all the same.
func TestReservePassesOverWhatThePoolIsAboutToLookAt(t *testing.T) {
	w := newWorld(t)
	n, err := w.try(network.Config{Subnet: netip.MustParsePrefix("10.9.0.0/29"), Pool: -1})
	w.must(err)
	w.addDevice(func(l netlink.Link) error { return addAddress(l, "10.9.0.1/30") })
	n.BeginTAP(0)
	n.BeginTAP(1)
	slot, err := n.Reserve(t.Context())
	if err != nil || slot.Index != 1 {
		t.Errorf("reserved %+v, %v; want the second slot", slot, err)
	}
	_, err = n.Reserve(t.Context())
	wantCode(t, err, models.Exhausted, "2")
}

func TestForwardingIsTurnedOnAndStaysOn(t *testing.T) {
	w := newWorld(t)
	forwarding := func() string {
		var value []byte
		w.onHost(func() (err error) { value, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward"); return err })
		return strings.TrimSpace(string(value))
	}
	w.onHost(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
	for _, changed := range []bool{true, false} {
		n := w.open("")
		if n.Info().ForwardingEnabled != changed || forwarding() != "1" {
			t.Errorf("turned on by us: %v, want %v; now %s", n.Info().ForwardingEnabled, changed, forwarding())
		}
		w.must(n.Close(t.Context(), true))
	}
	if forwarding() != "1" {
		t.Error("forwarding was turned off")
	}
}

func TestOneOwnerOfANamespace(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	_, err := w.try(network.Config{})
	wantCode(t, err, models.Conflict, "another host agent")
	other := newWorld(t)
	other.open("") // another namespace is another matter
	w.must(n.Close(t.Context(), false))
	w.open("")
}

func TestForeignTablesAreUntouchedAndOursIsRestored(t *testing.T) {
	w := newWorld(t)
	w.addFilter("filter", nftables.ChainPolicyAccept)
	foreign := w.listing("table ip filter")
	first, err := w.try(network.Config{Pool: -1})
	w.must(err)
	ours := w.listing("table inet wrenn")
	if !strings.Contains(ours, "masquerade") {
		t.Fatalf("our table:\n%s", ours)
	}
	w.must(first.Close(t.Context(), false))
	w.onHost(func() error { // somebody tampers with it
		conn, table := &nftables.Conn{}, &nftables.Table{Name: "wrenn", Family: nftables.TableFamilyINet}
		conn.FlushChain(&nftables.Chain{Name: "from_sandbox", Table: table})
		conn.AddChain(&nftables.Chain{Name: "extra", Table: table})
		return conn.Flush()
	})
	second, err := w.try(network.Config{Pool: -1})
	w.must(err)
	if got := w.listing("table inet wrenn"); got != ours {
		t.Errorf("our table is now:\n%s\nwant:\n%s", got, ours)
	}
	if got := w.listing("table ip filter"); got != foreign {
		t.Errorf("the foreign table is now:\n%s\nwant:\n%s", got, foreign)
	}
	w.attach(second, alice)
	w.must(second.Close(t.Context(), true))
	if got := w.listing("ruleset"); got != foreign {
		t.Errorf("after removal there is:\n%s\nwant:\n%s", got, foreign)
	}
	w.wantTAPs()
}

// TestHostsOwnTrafficIsLeftAlone: what the host itself sends keeps its source, and what passes our rules has no mark of ours, which the host's own
// rules may use.
func TestHostsOwnTrafficIsLeftAlone(t *testing.T) {
	w, n := newIPv6World(t)
	w.onHost(func() error {
		lo, err := netlink.LinkByName("lo")
		for _, address := range []string{"192.0.2.99/32", "2001:db8::99/128"} {
			if err == nil {
				err = addAddress(lo, address)
			}
		}
		return err
	})
	peer, g := w.hear(), w.bootIPv6(n, withIPv6)
	marked := w.countMarked()
	for from, to := range map[string]string{"192.0.2.99": peerAddress, "2001:db8::99": peerIPv6} {
		host := w.listen(w.host, netip.AddrPortFrom(netip.MustParseAddr(from), 7001).String())
		if _, err := host.WriteToUDPAddrPort([]byte("from the host"), netip.MustParseAddrPort(onPort(to))); err != nil {
			t.Fatal(err)
		}
		if got := w.wantDatagram(peer, "from the host"); got.Addr().Unmap().String() != from {
			t.Errorf("the host's %s was seen as %s", from, got)
		}
		g.say(onPort(to), "from the guest")
		w.wantDatagram(peer, "from the guest")
	}
	if got := marked(); got != 0 {
		t.Errorf("%d packets have a mark", got)
	}
}

// countMarked makes a table that counts the packets that leave with a mark of ours: the kernel itself marks some of its own.
func (w *world) countMarked() (count func() uint64) {
	w.Helper()
	conn := &nftables.Conn{}
	table := &nftables.Table{Name: "marks", Family: nftables.TableFamilyINet}
	chain := &nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter}
	w.onHost(func() error {
		conn.AddTable(table)
		conn.AddChain(chain)
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, 1<<31), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}, &expr.Counter{},
		}})
		return conn.Flush()
	})
	return func() (packets uint64) {
		w.onHost(func() error {
			rules, err := conn.GetRules(table, chain)
			if err == nil {
				packets = rules[0].Exprs[3].(*expr.Counter).Packets
			}
			return err
		})
		return packets
	}
}

// Beside Docker's policy our own accept is not enough; the operator must be told.
func TestFirewallInTheWayIsReported(t *testing.T) {
	w := newWorld(t)
	w.addFilter("filter", nftables.ChainPolicyDrop)
	var log bytes.Buffer
	n, err := w.try(network.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	w.must(err)
	defer func() { w.must(n.Close(t.Context(), true)) }()
	warnings := n.Info().Warnings
	if len(warnings) != 1 || !strings.Contains(warnings[0], "FORWARD of nftables table filter") || !strings.Contains(warnings[0], "DOCKER-USER") {
		t.Errorf("warnings = %q", warnings)
	}
	if strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("log: %s", &log)
	}
}

// addFilter makes a table like the one of iptables, with a rule of its own.
func (w *world) addFilter(name string, policy nftables.ChainPolicy) {
	w.Helper()
	w.addFilterOf(nftables.TableFamilyIPv4, name, policy)
}

// addFilterOf is addFilter for a family of addresses.
func (w *world) addFilterOf(family nftables.TableFamily, name string, policy nftables.ChainPolicy) {
	w.Helper()
	w.onHost(func() error {
		conn := &nftables.Conn{}
		table := conn.AddTable(&nftables.Table{Name: name, Family: family})
		chain := conn.AddChain(&nftables.Chain{
			Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Policy: &policy,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		return conn.Flush()
	})
}

// listing is what nft(8) lists of the host.
func (w *world) listing(what string) string {
	w.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		testlane.Missing(w, "needs nft (package nftables)")
	}
	cmd := exec.Command(nft, append([]string{"-s", "list"}, strings.Fields(what)...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.must(netns.Start(w.host, cmd))
	if err := cmd.Wait(); err != nil {
		w.Fatalf("%v: %s", err, &out)
	}
	return out.String()
}

// addDevice gives the host a device that is up.
func (w *world) addDevice(configure func(netlink.Link) error) {
	w.Helper()
	w.onHost(func() error {
		if err := addPair("other", "other-end"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("other")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		return configure(link)
	})
}

// addPair makes a veth pair, both ends of which stay here.
func addPair(name, end string) error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: end})
}

func addAddress(link netlink.Link, address string) error {
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, addr)
}

func addRoute(route *netlink.Route, to string) error {
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	route.Dst = dst
	return netlink.RouteAdd(route)
}

// What the network opened is closed with it, and what it started has ended.
func TestCloseLeavesNothingOpenOrRunning(t *testing.T) {
	w := newWorld(t)
	count := func() int {
		entries, err := filepath.Glob("/proc/self/fd/*")
		w.must(err)
		return len(entries)
	}
	before := 0
	for round := range 5 {
		n := w.open("")
		slot, _ := w.attach(n, alice)
		w.must(n.Detach(t.Context(), alice))
		n.Release(slot)
		w.must(n.Close(t.Context(), true))
		stacks := make([]byte, 1<<20)
		if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("network.deleteLink")) {
			t.Errorf("still at work:\n%s", stacks)
		}
		if round == 0 {
			before = count()
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}
