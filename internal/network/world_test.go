package network_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// The world of a test: a host and, behind its uplink, a peer, each a namespace.
const (
	hostAddress = "192.0.2.1" // TEST-NET-1: RFC 5737
	peerAddress = "192.0.2.2"
)

type world struct {
	testing.TB
	host, peer string // paths of the namespaces
}

// newWorld makes the namespaces and the uplink, a veth pair between them. The host's default
// route leads to the peer; the peer knows the way to the sandboxes, so that only rules keep it out.
func newWorld(t testing.TB) *world {
	t.Helper()
	testlane.NeedRoot(t)
	w := &world{TB: t, host: namespace(t), peer: namespace(t)}
	peer, err := netns.Open(w.peer)
	w.must(err)
	defer peer.Close()
	w.onHost(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "peer", PeerNamespace: netlink.NsFd(peer.FD()),
		})
	})
	w.onHost(func() error { return setUp("uplink", hostAddress+"/24", "0.0.0.0/0", peerAddress) })
	w.onPeer(func() error { return setUp("peer", peerAddress+"/24", "10.0.0.0/8", hostAddress) })
	return w
}

func namespace(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// setUp turns a device on, with an address and a route over a gateway.
func setUp(name, address, route, gateway string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(route)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) onHost(f func() error) { w.Helper(); w.must(netns.Do(w.host, f)) }
func (w *world) onPeer(f func() error) { w.Helper(); w.must(netns.Do(w.peer, f)) }

// try opens the network on the host, without logging.
func (w *world) try(cfg network.Config) (n *network.Network, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	err = netns.Do(w.host, func() error {
		n, err = network.Open(w.Context(), cfg)
		return err
	})
	return n, err
}

// open opens the network on the host; it goes with the test.
func (w *world) open(subnet string) *network.Network {
	w.Helper()
	var cfg network.Config
	if subnet != "" {
		cfg.Subnet = netip.MustParsePrefix(subnet)
	}
	n, err := w.try(cfg)
	w.must(err)
	w.Cleanup(func() {
		if err := n.Close(context.WithoutCancel(w.Context()), true); err != nil {
			w.Error(err)
		}
	})
	return n
}

// attach reserves a slot and attaches a sandbox.
func (w *world) attach(n *network.Network, sandbox id.Sandbox) (network.Slot, network.Link) {
	w.Helper()
	slot, err := n.Reserve(w.Context())
	w.must(err)
	link, err := n.Attach(w.Context(), sandbox, slot, network.DefaultPolicy)
	w.must(err)
	return slot, link
}

// listen opens a UDP socket in a namespace.
func (w *world) listen(ns, address string) *net.UDPConn {
	w.Helper()
	var conn *net.UDPConn
	w.must(netns.Do(ns, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}))
	w.Cleanup(func() { conn.Close() })
	w.must(conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// wantDatagram reads one datagram and returns where it came from.
func (w *world) wantDatagram(conn *net.UDPConn, want string) netip.AddrPort {
	w.Helper()
	buffer := make([]byte, 2048)
	n, from, err := conn.ReadFromUDPAddrPort(buffer)
	if err != nil || string(buffer[:n]) != want {
		w.Fatalf("received %q, %v; want %q", buffer[:n], err, want)
	}
	return from
}

// devices lists the names of the host's devices.
func (w *world) devices() (names []string) {
	w.Helper()
	w.onHost(func() error {
		links, err := netlink.LinkList()
		for errors.Is(err, netlink.ErrDumpInterrupted) { // the pool was being filled
			links, err = netlink.LinkList()
		}
		for _, link := range links {
			names = append(names, link.Attrs().Name)
		}
		return err
	})
	return names
}

// pooled lists the TAPs of the pool that are ready: they have their address.
func (w *world) pooled() (names []string) {
	w.Helper()
	w.onHost(func() error {
		links, err := netlink.LinkList()
		for errors.Is(err, netlink.ErrDumpInterrupted) {
			links, err = netlink.LinkList()
		}
		for _, link := range links {
			if addresses, _ := netlink.AddrList(link, netlink.FAMILY_V4); strings.HasPrefix(link.Attrs().Name, "tap-free-") && len(addresses) > 0 {
				names = append(names, link.Attrs().Name)
			}
		}
		return err
	})
	return names
}

// wantPool checks that the pool is as large as cfg says, and that its TAPs are down, with the owner and the address of their slots.
func (w *world) wantPool(cfg network.Config) {
	w.Helper()
	names := slices.DeleteFunc(w.devices(), func(name string) bool { return !strings.HasPrefix(name, "tap-free-") })
	if len(names) != cfg.Pool {
		w.Errorf("the pool is %q, want %d", names, cfg.Pool)
	}
	for _, name := range names {
		index, err := strconv.Atoi(strings.TrimPrefix(name, "tap-free-"))
		w.must(err)
		first := binary.BigEndian.Uint32(cfg.Subnet.Addr().AsSlice())
		gateway := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, first+uint32(4*index+1))))
		var device netlink.Link
		var addresses []netlink.Addr
		w.onHost(func() (err error) {
			if device, err = netlink.LinkByName(name); err != nil {
				return err
			}
			addresses, err = netlink.AddrList(device, netlink.FAMILY_V4)
			return err
		})
		if owner := device.(*netlink.Tuntap).Owner; owner != cfg.OwnerBase+uint32(index) || device.Attrs().Flags&net.FlagUp != 0 {
			w.Errorf("%s belongs to %d, %s", name, owner, device.Attrs().Flags)
		}
		if len(addresses) != 1 || addresses[0].IPNet.String() != gateway.String()+"/30" {
			w.Errorf("%s has %v, want %s/30", name, addresses, gateway)
		}
	}
}

// wantTAPs checks which TAPs the host has.
func (w *world) wantTAPs(want ...id.Sandbox) {
	w.Helper()
	var got []string
	for _, name := range w.devices() {
		if strings.HasPrefix(name, "tap-sb-") {
			got = append(got, name)
		}
	}
	if len(got) != len(want) {
		w.Errorf("TAPs = %q, want those of %q", got, want)
		return
	}
	for _, sandbox := range want {
		if !bytes.Contains([]byte(strings.Join(got, " ")), []byte(network.TAPName(sandbox))) {
			w.Errorf("TAPs = %q, want those of %q", got, want)
		}
	}
}

// routes counts the host's IPv4 routes, those of its own addresses included.
func (w *world) routes() (count int) {
	w.Helper()
	w.onHost(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		count = len(routes)
		return err
	})
	return count
}

func wantCode(t testing.TB, err error, code models.Code, mention string) {
	t.Helper()
	if err == nil || models.CodeOf(err) != code {
		t.Errorf("error = %v, want code %s", err, code)
		return
	}
	coded := models.AsError(err)
	if !strings.Contains(coded.Message+" "+coded.Hint, mention) {
		t.Errorf("%q (hint %q) does not mention %q", coded.Message, coded.Hint, mention)
	}
}
