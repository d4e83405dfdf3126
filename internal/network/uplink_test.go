package network_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// The other uplink, with a peer of its own: a namespace.
const (
	secondHost = "198.51.100.1"
	secondPeer = "198.51.100.2"
)

// addUplink gives the host a second uplink, which is not used at first, and returns the namespace behind it.
func (w *world) addUplink() string {
	w.Helper()
	path := namespace(w)
	second, err := netns.Open(path)
	w.must(err)
	defer second.Close()
	w.onHost(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "uplink2"}, PeerName: "peer", PeerNamespace: netlink.NsFd(second.FD()),
		})
	})
	w.onHost(func() error { return setUp("uplink2", secondHost+"/24", "192.88.99.0/24", secondPeer) })
	w.must(netns.Do(path, func() error { return setUp("peer", secondPeer+"/24", "10.0.0.0/8", secondHost) }))
	return path
}

// lead sets the host's default route.
func (w *world) lead(gateway string) {
	w.Helper()
	w.onHost(func() error {
		_, everywhere, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteReplace(&netlink.Route{Dst: everywhere, Gw: net.ParseIP(gateway)})
	})
}

// The uplink changes while a sandbox runs. What it sends next leaves by the new one, with the host's address there, also on
// what was a connection by the old one; and answers come back.
func TestUplinkIsFollowed(t *testing.T) {
	w := newWorld(t)
	other := w.addUplink()
	for _, ns := range []string{w.peer, other} {
		w.must(netns.Do(ns, func() error {
			link, err := netlink.LinkByName("peer")
			if err != nil {
				return err
			}
			return addAddress(link, otherAddress+"/32")
		}))
	}
	n := w.open("")
	g := w.bootWith(n, alice, network.DefaultPolicy)
	first, second := w.listen(w.peer, otherAddress+":7000"), w.listen(other, otherAddress+":7000")
	for _, side := range []struct {
		uplink, gateway, seenAs string
		peer                    *net.UDPConn
	}{
		{"uplink", peerAddress, hostAddress, first}, {"uplink2", secondPeer, secondHost, second}, {"uplink", peerAddress, hostAddress, first},
	} {
		w.lead(side.gateway)
		w.eventually("the uplink is told", func() bool { return n.Info().Uplink == side.uplink })
		buffer := make([]byte, 100)
		w.eventually("the guest's datagrams leave by it", func() bool {
			g.say(otherAddress+":7000", "hello") // from the same port to the same address: the connection that there was
			w.must(side.peer.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
			_, from, err := side.peer.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return false
			}
			if from.Addr().String() != side.seenAs {
				t.Errorf("by %s it was seen as %s, want %s", side.uplink, from, side.seenAs)
			}
			_, err = side.peer.WriteToUDPAddrPort([]byte("answer by "+side.uplink), from)
			return err == nil
		})
		if p := g.wantPacket(17); string(p.payload[8:]) != "answer by "+side.uplink {
			t.Errorf("the guest received %q", p.payload[8:])
		}
		for { // what was said more than once
			w.must(side.peer.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
			if _, _, err := side.peer.ReadFromUDPAddrPort(buffer); err != nil {
				break
			}
		}
	}
	w.onHost(func() error {
		_, everywhere, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteDel(&netlink.Route{Dst: everywhere, Gw: net.ParseIP(peerAddress)})
	})
	w.eventually("it is told that there is none", func() bool {
		return n.Info().Uplink == "" && len(n.Info().Warnings) == 1 && strings.Contains(n.Info().Warnings[0], "default route")
	})
}
