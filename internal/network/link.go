package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// tapPrefix begins the name of every TAP, and of nothing else; the rules match it.
const tapPrefix = "tap-sb-"

// gatewayMAC is the host's end of every TAP. It is the same for all, so that a guest that is
// restored elsewhere has the right one in its ARP cache. Locally administered: IEEE 802, 02 in the first byte.
var gatewayMAC = net.HardwareAddr{0x02, 'W', 'R', 'E', 'N', 'N'}

// Link is a sandbox's connection.
type Link struct {
	TAP     string           // device to hand to the VMM
	MAC     net.HardwareAddr // for the guest's eth0
	Guest   netip.Prefix     // the guest's address, with the length of its /30
	Gateway netip.Addr       // the guest's default route
	Index   int              // of the slot
	Owner   uint32           // uid and gid that the TAP belongs to; 0: root
}

// TAPName is the name of a sandbox's TAP. It has 15 bytes, as many as a device's name can have.
func TAPName(sandbox id.Sandbox) string { return "tap-" + string(sandbox) }

// GuestMAC is the address of a sandbox's eth0: locally administered, the rest is the sandbox's
// id. It needs no record, tells nothing of the host, stays when the sandbox wakes on another
// host, and differs between any two sandboxes. A TAP has no third party, so nothing else matters.
func GuestMAC(sandbox id.Sandbox) net.HardwareAddr {
	digits, err := hex.DecodeString(strings.TrimPrefix(string(sandbox), "sb-"))
	if err != nil || len(digits) != 4 {
		panic(fmt.Sprintf("network: %q is not a sandbox id", sandbox)) // ids are parsed at the edge
	}
	return append(net.HardwareAddr{0x06, 'W'}, digits...)
}

// Attach makes the sandbox's TAP, with the slot's gateway address, and turns it on. Attaching what is
// attached already, also by an earlier process, changes nothing and gives the same answer.
// After an error nothing is left that was not there before.
//
// Errors: Precondition when the slot is not held, Conflict when it belongs to another
// sandbox, or when the sandbox is attached with another slot.
func (n *Network) Attach(ctx context.Context, sandbox id.Sandbox, slot Slot, p Policy) (Link, error) {
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return Link{}, err
	}
	defer end()
	if err := n.slots.use(slot, sandbox); err != nil {
		return Link{}, err
	}
	if err := n.attach(ctx, TAPName(sandbox), slot); err != nil {
		return Link{}, fmt.Errorf("attach %s: %w", TAPName(sandbox), err)
	}
	return Link{TAPName(sandbox), GuestMAC(sandbox), slot.Guest, slot.Gateway, slot.Index, slot.Owner}, nil
}

func (n *Network) attach(ctx context.Context, name string, slot Slot) error {
	index, err := n.ifindex(name)
	if err != nil {
		return err
	}
	if index != 0 {
		return n.reattach(name, index, slot)
	}
	if err := n.ns.Do(func() error { return createTAP(name) }); err != nil {
		return err
	}
	if err = n.setUp(name, slot); err == nil {
		err = ctx.Err()
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		return errors.Join(err, n.remove(undo, name))
	}
	return nil
}

// reattach makes sure that the device of this name is the slot's TAP, and finishes what a killed
// process may have left half done.
func (n *Network) reattach(name string, index int, slot Slot) error {
	link, err := n.tap(name, index)
	if err != nil {
		return err
	}
	address, err := n.address(name)
	switch {
	case err != nil:
		return err
	case address == slot.Gateway && link.Attrs().Flags&net.FlagUp != 0:
		return nil
	case address.IsValid() && address != slot.Gateway:
		return models.Errorf(models.Conflict, "device %s has address %s, not %s", name, address, slot.Gateway)
	}
	return n.setUp(name, slot)
}

// tap returns the device with this index, if it is a TAP and not somebody's device of that name.
func (n *Network) tap(name string, index int) (netlink.Link, error) {
	link, err := n.route.LinkByIndex(index)
	if err != nil {
		return nil, err
	}
	if _, ok := link.(*netlink.Tuntap); !ok {
		return nil, models.Errorf(models.Conflict, "the host has a device %s that is no TAP", name)
	}
	return link, nil
}

// setUp gives a TAP its addresses and turns it on. It can be repeated.
func (n *Network) setUp(name string, slot Slot) error {
	index, err := n.ifindex(name)
	if err != nil {
		return err
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if err := n.route.LinkSetHardwareAddr(link, gatewayMAC); err != nil {
		return fmt.Errorf("set hardware address: %w", err)
	}
	// Without a link-local address the host sends no IPv6 to the guest. A kernel without IPv6 needs no telling.
	const none = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	if err := n.route.LinkSetIP6AddrGenMode(link, none); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turn IPv6 addresses off: %w", err)
	}
	mask := net.CIDRMask(slotBits, 32)
	if err := n.route.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: slot.Gateway.AsSlice(), Mask: mask}}); err != nil {
		return fmt.Errorf("set address %s: %w", slot.Gateway, err)
	}
	if err := n.route.LinkSetUp(link); err != nil {
		return fmt.Errorf("turn on: %w", err)
	}
	return nil
}

// createTAP makes a persistent TAP device in the calling thread's namespace:
// Documentation/networking/tuntap.rst. With IFF_VNET_HDR guest and host leave checksums and
// segmentation to each other. IFF_TUN_EXCL refuses a device that exists.
func createTAP(name string) error {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, request); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(int(tun.Fd()), unix.TUNSETPERSIST, 1))
}

// ifindex returns the index of a device, 0 when there is none of this name: netdevice(7).
func (n *Network) ifindex(name string) (int, error) {
	request, err := n.ioctl(unix.SIOCGIFINDEX, name)
	if errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// address returns the IPv4 address of a device, invalid when it has none: netdevice(7).
func (n *Network) address(name string) (netip.Addr, error) {
	request, err := n.ioctl(unix.SIOCGIFADDR, name)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, err
	}
	b, err := request.Inet4Addr()
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.AddrFrom4([4]byte(b)), nil
}

func (n *Network) ioctl(number uint, name string) (*unix.Ifreq, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	return request, unix.IoctlIfreq(int(n.inet.Fd()), number, request)
}
