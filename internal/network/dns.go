package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// Where a guest asks for names: its gateway, and others. RFC 1035; RFC 7858 and 9250.
const (
	dnsPort        = 53
	dnsOverTLSPort = 853
)

// ListenDNS opens what guests reach as their gateway's port 53, by UDP and by TCP, and nobody else: the rules redirect what
// comes from a guest, and drop what comes from elsewhere to the sockets' port. They see each guest by its own
// address: see SandboxAt. The caller closes them; guests that ask then get no answer. Opening anew, also after a restart, has
// the same port if that is free, so that what guests have asked from one port goes on to be answered.
func (n *Network) ListenDNS(ctx context.Context) (net.PacketConn, net.Listener, error) {
	end, err := n.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	n.dnsMu.Lock()
	defer n.dnsMu.Unlock()
	last, err := n.namePort()
	if err != nil {
		return nil, nil, err
	}
	var packets net.PacketConn
	var streams net.Listener
	err = n.ns.Do(func() (err error) {
		packets, streams, err = listenBoth(ctx, last)
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

// listenBoth opens a UDP and a TCP socket on one port, of all addresses: the gateways come and go. It begins with a
// port that is preferred.
func listenBoth(ctx context.Context, preferred uint16) (packets net.PacketConn, streams net.Listener, err error) {
	for port := preferred; ; port = 0 {
		packets, streams, err = listenOn(ctx, port)
		if err == nil || port == 0 && !errors.Is(err, unix.EADDRINUSE) { // what UDP got may be taken for TCP
			return packets, streams, err
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
	}
}

// listenOn opens both on a port; 0: on any.
func listenOn(ctx context.Context, port uint16) (net.PacketConn, net.Listener, error) {
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
	if err != nil {
		return nil, nil, err
	}
	streams, err := config.Listen(ctx, "tcp4", packets.LocalAddr().String())
	if err != nil {
		return nil, nil, errors.Join(err, packets.Close())
	}
	return packets, streams, nil
}

// namePort is the port that questions were led to last; 0: none.
func (n *Network) namePort() (port uint16, err error) {
	err = n.kernel.list(dnsPorts, func(e element, _ counter) { port = binary.BigEndian.Uint16([]byte(e.data)) })
	if err != nil {
		return 0, fmt.Errorf("list set %s: %w", dnsPorts, err)
	}
	return port, nil
}

// redirectNames leads the guests' questions to port. The caller holds dnsMu.
func (n *Network) redirectNames(port uint16) error {
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
