package e2e

import (
	"net"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// The two ends of the uplink of a platform's host. These and all addresses behind it are for documentation, RFC 5737.
const (
	addressOfHost = "192.0.2.1"
	gatewayOfHost = "192.0.2.2"
)

// uplink makes a namespace and links it, as the way to everywhere, to that of the platform's host. Its end, the device "peer", has the
// gateway's address and the others. It ends with the test.
func (p *platform) uplink(others ...string) (peer string) {
	p.t.Helper()
	peer = filepath.Join(p.dir, "peer")
	must := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	must(netns.Create(peer))
	p.t.Cleanup(func() {
		if err := netns.Delete(peer); err != nil {
			p.t.Errorf("remove the namespace behind the uplink: %v", err)
		}
	})
	there, err := netns.Open(peer)
	must(err)
	defer there.Close()
	must(netns.Do(p.netns, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "peer", PeerNamespace: netlink.NsFd(there.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		if err := turnOn("uplink", addressOfHost+"/24"); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gatewayOfHost)})
	}))
	must(there.Do(func() error {
		addresses := []string{gatewayOfHost + "/24"}
		for _, other := range others {
			addresses = append(addresses, other+"/32")
		}
		return turnOn("peer", addresses...)
	}))
	return peer
}

// turnOn gives a device its addresses and sets it up.
func turnOn(device string, addresses ...string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}
