package network_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// vnetHeader is the empty struct virtio_net_hdr before each frame: linux/virtio_net.h.
var vnetHeader = make([]byte, 10)

// guest stands in for a VM: it has a TAP open as a VMM has, and speaks Ethernet, ARP, IPv4, and IPv6 where it is asked to (ipv6_guest_test.go).
type guest struct {
	*world
	link    network.Link
	sandbox id.Sandbox
	tap     *os.File
	gateway net.HardwareAddr
	packets chan packet
	resolve chan net.HardwareAddr
	told    atomic.Int64 // answers to who asked for the gateway by IPv6
	reader  sync.WaitGroup
}

// packet is an IPv4 or an IPv6 packet as a guest sends or receives it.
type packet struct {
	from, to netip.Addr
	protocol byte   // or the first next header
	payload  []byte // what follows the header
	options  []byte // of the IPv4 header
	fragment uint16 // flags and offset, as in the header
}

// boot opens a sandbox's TAP and finds its gateway.
func (w *world) boot(link network.Link) *guest {
	w.Helper()
	return w.bootOn(w.openTAP(link.TAP), link)
}

// bootOn boots one whose TAP is open.
func (w *world) bootOn(tap *os.File, link network.Link) *guest {
	w.Helper()
	g := &guest{world: w, link: link, tap: tap, packets: make(chan packet, 100), resolve: make(chan net.HardwareAddr, 10)}
	g.reader.Go(g.read)
	w.Cleanup(g.halt)
	g.findGateway()
	return g
}

// openTAP opens a TAP as a VMM does. It is for one guest.
func (w *world) openTAP(name string) (tap *os.File) {
	w.Helper()
	w.onHost(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		tap = os.NewFile(uintptr(fd), name) // only now: the poller must not see it without its device
		return nil
	})
	return tap
}

// findGateway asks until it is answered, as every guest does: the host sends nothing through
// a TAP in the moment after it was opened, until the kernel has noticed that its carrier is on.
func (g *guest) findGateway() {
	g.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		g.arp(1, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, g.link.Gateway)
		select {
		case g.gateway = <-g.resolve:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	g.Fatal("the gateway does not answer ARP")
}

// halt ends the guest as a VMM's exit does. It may be called again.
func (g *guest) halt() {
	g.tap.Close()
	g.reader.Wait()
}

// read passes on what the guest receives, and answers ARP, until the TAP is closed or gone.
func (g *guest) read() {
	for buffer := make([]byte, 4096); ; {
		n, err := g.tap.Read(buffer)
		if err != nil {
			return
		}
		frame := bytes.Clone(buffer[len(vnetHeader):n])
		switch binary.BigEndian.Uint16(frame[12:]) {
		case unix.ETH_P_ARP:
			g.onARP(frame[14:])
		case unix.ETH_P_IP:
			ip := frame[14:]
			from, _ := netip.AddrFromSlice(ip[12:16])
			to, _ := netip.AddrFromSlice(ip[16:20])
			g.packets <- packet{from: from, to: to, protocol: ip[9], payload: ip[20:binary.BigEndian.Uint16(ip[2:])]}
		case unix.ETH_P_IPV6:
			g.onIPv6(frame[14:])
		}
	}
}

// onARP handles an ARP message: RFC 826.
func (g *guest) onARP(message []byte) {
	sender, _ := netip.AddrFromSlice(message[14:18])
	switch {
	case message[7] == 2:
		select {
		case g.resolve <- net.HardwareAddr(message[8:14]):
		default: // asked more often than needed
		}
	case bytes.Equal(message[24:28], g.link.Guest.Addr().AsSlice()):
		g.arp(2, net.HardwareAddr(message[8:14]), sender)
	}
}

func (g *guest) arp(operation byte, to net.HardwareAddr, target netip.Addr) {
	message := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	message = append(append(message, g.link.MAC...), g.link.Guest.Addr().AsSlice()...)
	message = append(append(message, to...), target.AsSlice()...)
	g.frame(to, unix.ETH_P_ARP, message)
}

// frame sends an Ethernet frame.
func (g *guest) frame(to net.HardwareAddr, kind uint16, payload []byte) {
	g.raw(append(binary.BigEndian.AppendUint16(append(bytes.Clone(to), g.link.MAC...), kind), payload...))
}

// raw sends a frame with its header. Nothing is sent through a TAP that is gone.
func (g *guest) raw(frame []byte) {
	frame = append(bytes.Clone(vnetHeader), frame...)
	if _, err := g.tap.Write(frame); err != nil && !errors.Is(err, os.ErrClosed) {
		g.Errorf("write to %s: %v", g.link.TAP, err)
	}
}

// send sends a packet.
func (g *guest) send(p packet) {
	if p.to.Is6() {
		g.frame(g.gateway, unix.ETH_P_IPV6, g.encodeIPv6(p))
		return
	}
	g.frame(g.gateway, unix.ETH_P_IP, g.encode(p))
}

// encode is an IPv4 packet as it is on the wire: RFC 791.
func (g *guest) encode(p packet) []byte {
	if !p.from.IsValid() {
		p.from = g.link.Guest.Addr()
	}
	header := []byte{0x40 | byte(5+len(p.options)/4), 0, 0, 0, 0, 1, 0x40, 0, 64, p.protocol, 0, 0}
	if p.fragment != 0 {
		binary.BigEndian.PutUint16(header[6:], p.fragment)
	}
	header = append(append(append(header, p.from.AsSlice()...), p.to.AsSlice()...), p.options...)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(p.payload)))
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(header, p.payload...)
}

// say sends a datagram from port 9000.
func (g *guest) say(to, text string) {
	address := netip.MustParseAddrPort(to)
	g.send(packet{to: address.Addr(), protocol: unix.IPPROTO_UDP, payload: udp(address.Port(), text)})
}

// wantPacket waits for a packet with this protocol.
func (g *guest) wantPacket(protocol byte) packet {
	g.Helper()
	select {
	case p := <-g.packets:
		if p.protocol == protocol {
			return p
		}
		g.Fatalf("received %+v, want protocol %d", p, protocol)
	case <-time.After(patience):
		g.Fatalf("received nothing, want protocol %d", protocol)
	}
	return packet{}
}

// udp is a datagram from port 9000, without a checksum: RFC 768.
func udp(port uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{9000 >> 8, 9000 & 0xff}, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(text)))
	return append(append(b, 0, 0), text...)
}

// ping is an ICMP echo message: RFC 792; kind 8 asks, 0 answers.
func ping(kind byte) []byte {
	b := []byte{kind, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// syn opens a TCP connection to a port and offers segments of 1,460 bytes: RFC 9293.
func syn(from, to netip.Addr, port uint16) []byte {
	b := binary.BigEndian.AppendUint16([]byte{9000 >> 8, 9000 & 0xff}, port)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 6<<4, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 1460>>8, 1460&0xff)
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// checksum is the Internet checksum of an even number of bytes: RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// holdTAP opens a TAP as a VMM does and returns what closes it.
func (w *world) holdTAP(name string) *os.File {
	w.Helper()
	var tap *os.File
	w.must(netns.Do(w.host, func() (err error) {
		if tap, err = os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(int(tap.Fd()), unix.TUNSETIFF, request)
	}))
	w.Cleanup(func() { tap.Close() })
	return tap
}
