package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
)

// Where a guest asks for names: its gateway, and others. RFC 1035; RFC 7858 and 9250.
const (
	dnsPort        = 53
	dnsOverTLSPort = 853
)

// ListenDNS opens what guests reach as their gateway's port 53, by UDP and by TCP, and nobody else: the rules redirect what
// comes from a guest, and drop what comes from elsewhere to the sockets' port. They see each guest by its own
// address: see SandboxAt. The caller closes them; guests that ask then get no answer. Opening anew replaces them.
func (n *Network) ListenDNS(ctx context.Context) (net.PacketConn, net.Listener, error) {
	end, err := n.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	var packets net.PacketConn
	var streams net.Listener
	err = n.ns.Do(func() (err error) {
		packets, streams, err = listenBoth(ctx)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open the sandboxes' name server: %w", err)
	}
	if err := n.redirectNames(packets.LocalAddr().(*net.UDPAddr).AddrPort().Port()); err != nil {
		return nil, nil, errors.Join(err, packets.Close(), streams.Close())
	}
	return packets, streams, nil
}

// listenBoth opens a UDP and a TCP socket on one port, of all addresses: the gateways come and go.
func listenBoth(ctx context.Context) (packets net.PacketConn, streams net.Listener, err error) {
	for range 20 { // the port that UDP has may be taken for TCP
		var config net.ListenConfig
		if packets, err = config.ListenPacket(ctx, "udp4", "0.0.0.0:0"); err != nil {
			return nil, nil, err
		}
		address := netip.AddrPortFrom(netip.IPv4Unspecified(), packets.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		if streams, err = config.Listen(ctx, "tcp4", address.String()); err == nil {
			return packets, streams, nil
		}
		err = errors.Join(err, packets.Close())
	}
	return nil, nil, err
}

// redirectNames leads the guests' questions to port.
func (n *Network) redirectNames(port uint16) error {
	n.dnsMu.Lock()
	defer n.dnsMu.Unlock()
	var old, now []element
	for _, set := range []string{dnsPorts, dnsSockets} {
		err := n.kernel.list(set, func(e element, _ counter) { old = append(old, element{slotOf: e.slotOf}) })
		if err != nil {
			return fmt.Errorf("list set %s: %w", set, err)
		}
	}
	// Each part of a key fills a register: dnsSockets has two.
	number := string(binaryutil.BigEndian.PutUint16(port))
	for _, protocol := range []byte{udp, tcp} {
		now = append(now,
			element{slotOf{dnsPorts, string([]byte{protocol})}, content{data: number}},
			element{slotOf: slotOf{dnsSockets, string([]byte{protocol, 0, 0, 0}) + number + "\x00\x00"}})
	}
	sortBySet(now)
	if err := n.kernel.commit(old, now); err != nil {
		return fmt.Errorf("lead questions for names to port %d: %w", port, err)
	}
	return nil
}
