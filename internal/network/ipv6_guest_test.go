package network_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// The IPv6 addresses of the test's world (RFC 3849): the host, the peer, and the peer's others, one of them private.
const (
	hostIPv6    = "2001:db8::1"
	peerIPv6    = "2001:db8::2"
	farIPv6     = "2001:db8:7::7"
	nearFarIPv6 = "2001:db8:7::8"
	otherIPv6   = "2001:db8:9::9"
	privateIPv6 = "fd00:7::7"
)

// onPort is an address with port 7000.
func onPort(address string) string {
	return netip.AddrPortFrom(netip.MustParseAddr(address), 7000).String()
}

// giveIPv6 gives the host and the peer IPv6. The peer knows the way to the sandboxes, so that only rules keep it out.
func (w *world) giveIPv6() {
	w.Helper()
	w.onHost(func() error { return setUpIPv6("uplink", "::/0", peerIPv6, hostIPv6+"/64") })
	w.must(netns.Do(w.peer, func() error {
		return setUpIPv6("peer", "fd57::/16", hostIPv6, peerIPv6+"/64", farIPv6+"/128", nearFarIPv6+"/128", otherIPv6+"/128", privateIPv6+"/128")
	}))
}

// setUpIPv6 gives a device that is on addresses that can be used at once, and a route.
func setUpIPv6(name, route, gateway string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return addRoute(&netlink.Route{Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index}, route)
}

// onIPv6 handles a packet: those to the guest's own address are passed on, and the answer of its gateway is taken note of.
func (g *guest) onIPv6(b []byte) {
	from, _ := netip.AddrFromSlice(b[8:24])
	to, _ := netip.AddrFromSlice(b[24:40])
	switch {
	case to != g.link.IPv6.Guest.Addr():
	case b[6] == unix.IPPROTO_ICMPV6 && b[40] == advertises:
		if g.told.Add(1); len(b) < 72 { // without option 2, as whoever asks the gateway itself knows where that is: RFC 4861, 4.4
			return
		}
		select {
		case g.resolve <- net.HardwareAddr(b[66:72]):
		default:
		}
	default:
		g.packets <- packet{from: from, to: to, protocol: b[6], payload: bytes.Clone(b[40:])}
	}
}

// Messages of ICMPv6: RFC 4443, RFC 4861.
const (
	icmpv6     = unix.IPPROTO_ICMPV6
	asks       = 135
	advertises = 136
)

// encodeIPv6 is a packet as it is on the wire, with its checksum: RFC 8200.
func (g *guest) encodeIPv6(p packet) []byte {
	if !p.from.IsValid() {
		p.from = g.link.IPv6.Guest.Addr()
	}
	payload := bytes.Clone(p.payload)
	if at := map[byte]int{unix.IPPROTO_UDP: 6, unix.IPPROTO_TCP: 16, icmpv6: 2}[p.protocol]; at != 0 && len(payload) > at+1 {
		copy(payload[at:], []byte{0, 0})
		binary.BigEndian.PutUint16(payload[at:], checksumIPv6(p, payload))
	}
	header := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	header = append(header, p.protocol, 255)
	return append(append(append(header, p.from.AsSlice()...), p.to.AsSlice()...), payload...)
}

// checksumIPv6 is that of a packet with its pseudo-header: RFC 8200, 8.1.
func checksumIPv6(p packet, payload []byte) uint16 {
	pseudo := append(p.from.AsSlice(), p.to.AsSlice()...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(payload))), 0, 0, 0, p.protocol)
	whole := append(pseudo, payload...)
	if len(whole)%2 == 1 {
		whole = append(whole, 0)
	}
	return checksum(whole)
}

// neighbour is a message of neighbour discovery about an address, with the guest's own hardware address.
func (g *guest) neighbour(kind, option byte, about netip.Addr) []byte {
	message := append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, about.AsSlice()...)
	return append(append(message, option, 1), g.link.MAC...)
}

// asksFor asks a neighbour for its hardware address, in the group of an address.
func (g *guest) asksFor(about, group netip.Addr) {
	g.send(packet{to: groupOf(group), protocol: icmpv6, payload: g.neighbour(asks, 1, about)})
}

// groupOf is the group in which an address is asked for: RFC 4291, 2.7.1.
func groupOf(addr netip.Addr) netip.Addr {
	low := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: low[13], 14: low[14], 15: low[15]})
}

// findIPv6 asks for the gateway until it is answered.
func (g *guest) findIPv6() {
	g.Helper()
	for len(g.resolve) > 0 { // what was asked by ARP
		<-g.resolve
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		g.asksFor(g.link.IPv6.Gateway, g.link.IPv6.Gateway)
		select {
		case mac := <-g.resolve:
			if !bytes.Equal(mac, g.gateway) {
				g.Errorf("the gateway is at %s by IPv6, and at %s by IPv4", mac, g.gateway)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	g.Fatal("the gateway does not answer neighbour solicitations")
}

// echoIPv6 is an ICMPv6 echo message.
func echoIPv6(kind byte) []byte { return []byte{kind, 0, 0, 0, 0, 1, 0, 1} }

// part is a fragment's header, and a piece of what was cut: RFC 8200, 4.5.
func part(protocol byte, offset uint16, more bool, piece []byte) []byte {
	field := offset // in units of eight bytes, above three bits
	if more {
		field |= 1
	}
	return append(binary.BigEndian.AppendUint16([]byte{protocol, 0}, field), append([]byte{0, 0, 0, 7}, piece...)...)
}
