package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ipv6Knobs are the settings of eth0: Documentation/networking/ip-sysctl.rst.
const ipv6Knobs = "/proc/sys/net/ipv6/conf/" + ethernet + "/"

// setIPv6 gives eth0 an IPv6 address and the guest its default route by IPv6, and nothing that it had before; with a zero value it has none, and
// is silent: it solicits no router, and joins no group. What it has already stays, with the connections that are open.
func (m *Machine) setIPv6(want IPv6) error {
	if !want.Address.IsValid() {
		if !m.silenced {
			_ = writeKnob(ipv6Knobs+"disable_ipv6", "1") // a kernel without IPv6 has no such file
		}
		m.silenced = true
		return nil
	}
	m.silenced = false
	if !want.Address.Addr().Is6() || want.Address.Addr().Is4In6() || !want.Gateway.Is6() || !want.Address.Contains(want.Gateway) {
		return fmt.Errorf("address %s with gateway %s: both must be IPv6, in one network", want.Address, want.Gateway)
	}
	addresses, err := ipv6Addresses()
	if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 has its guest go on by IPv4
		return nil
	}
	if err != nil {
		return err
	}
	if len(addresses) == 1 && addresses[0] == want.Address {
		return nil
	}
	if err := restartIPv6(); err != nil {
		return err
	}
	return withSocketOf(unix.AF_INET6, func(fd int) error { return assignIPv6(fd, want) })
}

// restartIPv6 removes all addresses and routes of eth0, and has it believe no router: what it is to have the host tells. Nobody else
// can have its address, so that none is asked.
func restartIPv6() error {
	const noLinkLocal = "1" // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	for _, knob := range [][2]string{
		{"disable_ipv6", "1"},
		{"accept_ra", "0"}, {"autoconf", "0"}, {"accept_redirects", "0"}, {"accept_dad", "0"}, {"addr_gen_mode", noLinkLocal},
		{"disable_ipv6", "0"},
	} {
		if err := writeKnob(ipv6Knobs+knob[0], knob[1]); err != nil {
			return err
		}
	}
	return nil
}

// ipv6Addresses are those of eth0. A line of the file has address, index, length, scope, flags, and name.
func ipv6Addresses() (list []netip.Prefix, err error) {
	text, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[5] != ethernet {
			continue
		}
		raw, errAddr := hex.DecodeString(fields[0])
		bits, errBits := hex.DecodeString(fields[2])
		addr, ok := netip.AddrFromSlice(raw)
		if errAddr == nil && errBits == nil && ok && len(bits) == 1 {
			list = append(list, netip.PrefixFrom(addr, int(bits[0])))
		}
	}
	return list, err
}

// ipv6Request is struct in6_ifreq of <linux/ipv6.h>, and ipv6Route struct in6_rtmsg of <linux/ipv6_route.h> on a 64-bit machine.
type ipv6Request struct {
	address [16]byte
	bits    uint32
	index   int32
}

type ipv6Route struct {
	_, _, gateway [16]byte // to everywhere, from anywhere
	_             uint32
	_, _          uint16
	metric        uint32
	_             uint64
	flags         uint32
	index         int32
}

// The compiler checks that the layouts have the sizes that the kernel copies.
var (
	_ [24]byte = [unsafe.Sizeof(ipv6Request{})]byte{}
	_ [80]byte = [unsafe.Sizeof(ipv6Route{})]byte{}
)

// assignIPv6 gives eth0, which has none, its address and the default route.
func assignIPv6(fd int, want IPv6) error {
	const (
		rtfUp      = 0x1 // <linux/route.h>
		rtfGateway = 0x2
	)
	if err := setUp(fd, ethernet); err != nil {
		return err
	}
	named, err := unix.NewIfreq(ethernet)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, named)
	}
	if err != nil {
		return err
	}
	index := int32(named.Uint32())
	request := ipv6Request{address: want.Address.Addr().As16(), bits: uint32(want.Address.Bits()), index: index}
	if err := ipv6Ioctl(fd, unix.SIOCSIFADDR, unsafe.Pointer(&request)); err != nil {
		return fmt.Errorf("%s: address %s: %w", ethernet, want.Address, err)
	}
	route := ipv6Route{gateway: want.Gateway.As16(), metric: 1024, flags: rtfUp | rtfGateway, index: index}
	if err := ipv6Ioctl(fd, unix.SIOCADDRT, unsafe.Pointer(&route)); err != nil {
		return fmt.Errorf("route by %s: %w", want.Gateway, err)
	}
	return nil
}

// ipv6Ioctl is given what the kernel copies, and keeps no pointer into.
func ipv6Ioctl(fd int, operation uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), operation, uintptr(argument)); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
