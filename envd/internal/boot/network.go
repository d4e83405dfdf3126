package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	loopback  = "lo"
	ethernet  = "eth0"
	routeSize = 120
)

// startLoopback brings lo up; the kernel gives it 127.0.0.1 and ::1 then.
func startLoopback() error { return withSocket(func(fd int) error { return setUp(fd, loopback) }) }

// setAddress gives eth0 an address, and the guest its default route. An address that
// eth0 had goes, with its routes. It is all done by ioctl (netdevice(7)): a netlink
// library would be a good part of envd's size.
func setAddress(address netip.Prefix, gateway netip.Addr) error {
	if !address.IsValid() {
		return nil
	}
	if !address.Addr().Is4() || gateway.IsValid() && !address.Contains(gateway) {
		return fmt.Errorf("address %s with gateway %s: both must be IPv4, in one network", address, gateway)
	}
	return withSocket(func(fd int) error {
		if err := assign(fd, address); err != nil {
			return fmt.Errorf("%s: %w", ethernet, err)
		}
		if !gateway.IsValid() {
			return nil
		}
		if err := addDefaultRoute(fd, gateway); err != nil {
			return fmt.Errorf("route by %s: %w", gateway, err)
		}
		return nil
	})
}

// setAddresses gives eth0 its addresses, or takes them. The caller holds mu.
func (m *Machine) setAddresses(s Settings) error {
	if !s.Address.IsValid() && s.IPv6 == nil {
		return nil
	}
	var ipv6 IPv6
	if s.IPv6 != nil {
		ipv6 = *s.IPv6
	}
	if err := m.setIPv6(ipv6); err != nil {
		return err
	}
	return setAddress(s.Address, s.Gateway)
}

// withSocket calls do with a socket to send ioctls to.
func withSocket(do func(fd int) error) error { return withSocketOf(unix.AF_INET, do) }

func withSocketOf(family int, do func(fd int) error) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return do(fd)
}

// setUp sets IFF_UP.
func setUp(fd int, device string) error {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return err
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// assign sets address, netmask and IFF_UP. Setting an address removes the one before, and
// with the last address of a device the kernel drops the routes over it.
func assign(fd int, address netip.Prefix) error {
	if hasAddress(fd, address.Addr().As4(), unix.SIOCGIFADDR) && hasAddress(fd, mask(address.Bits()), unix.SIOCGIFNETMASK) {
		return setUp(fd, ethernet)
	}
	if err := setInet(fd, unix.SIOCSIFADDR, address.Addr().As4()); err != nil {
		return err
	}
	if err := setInet(fd, unix.SIOCSIFNETMASK, mask(address.Bits())); err != nil {
		return err
	}
	return setUp(fd, ethernet)
}

func setInet(fd int, operation uint, address [4]byte) error {
	request, err := unix.NewIfreq(ethernet)
	if err != nil {
		return err
	}
	if err := request.SetInet4Addr(address[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, operation, request)
}

func mask(bits int) (m [4]byte) {
	binary.BigEndian.PutUint32(m[:], ^uint32(0)<<(32-bits))
	return m
}

// route is struct rtentry of <linux/route.h> on a 64-bit machine.
type route struct {
	_       uint64
	dst     unix.RawSockaddrInet4
	gateway unix.RawSockaddrInet4
	genmask unix.RawSockaddrInet4
	flags   uint16
	_       int16
	_       uint64
	_       uintptr
	metric  int16
	dev     *byte
	mtu     uint64
	window  uint64
	irtt    uint16
}

// The compiler checks that the layout has the size that the kernel copies.
var _ [routeSize]byte = [unsafe.Sizeof(route{})]byte{}

// addDefaultRoute adds the default route. One that is there already, by this gateway or
// by an older one, goes first.
func addDefaultRoute(fd int, gateway netip.Addr) error {
	const (
		rtfUp      = 0x1 // <linux/route.h>
		rtfGateway = 0x2
	)
	zero := unix.RawSockaddrInet4{Family: unix.AF_INET}
	r := route{dst: zero, gateway: zero, genmask: zero, flags: rtfUp}
	for range 8 { // a guest's root may have added some
		if err := routeIoctl(fd, unix.SIOCDELRT, &r); errors.Is(err, unix.ESRCH) {
			break
		}
	}
	r.gateway.Addr = gateway.As4()
	r.flags |= rtfGateway
	return routeIoctl(fd, unix.SIOCADDRT, &r)
}

func routeIoctl(fd int, operation uintptr, r *route) error {
	// The kernel copies the structure and keeps no pointer into it.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), operation, uintptr(unsafe.Pointer(r)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
