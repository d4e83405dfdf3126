package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// anyTAP begins the name of every TAP, those of the pool too, and of nothing else; the rules match it.
const anyTAP = "tap-"

// gatewayMAC is the host's end of every TAP. It is the same for all, so that a guest that is
// restored elsewhere has the right one in its ARP cache. Locally administered: IEEE 802, 02 in the first byte.
var gatewayMAC = net.HardwareAddr{0x02, 'W', 'R', 'E', 'N', 'N'}

// Link is a sandbox's connection.
type Link struct {
	TAP     string           // device to hand to the VMM
	MAC     net.HardwareAddr // for the guest's eth0
	Guest   netip.Prefix     // the guest's address, with the length of its /30
	Gateway netip.Addr       // the guest's default route
	IPv6    IPv6             // invalid without
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

// Attach makes the sandbox's TAP out of one of the pool, which has the slot's gateway address, and turns it on. The policy holds
// before the first packet. Attaching what is attached already, also by an earlier process, makes what there is equal
// to the policy, interrupts nothing that it allows, and gives the same answer. After an error nothing is left that
// was not there before.
//
// Errors: Invalid for a policy that cannot be, Precondition when the slot is not held, Conflict when it belongs to
// another sandbox, or when the sandbox is attached with another slot.
func (n *Network) Attach(ctx context.Context, sandbox id.Sandbox, slot Slot, p Policy) (Link, error) {
	if err := p.check(); err != nil {
		return Link{}, err
	}
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return Link{}, err
	}
	defer end()
	if err := n.slots.use(slot, sandbox); err != nil {
		return Link{}, err
	}
	defer n.pool.refill()
	one := attachment{sandbox: sandbox, slot: slot}
	if one.policy, one.withoutIPv6, err = n.granted(ctx, p); err == nil {
		err = n.attach(ctx, one)
	}
	if err != nil {
		return Link{}, fmt.Errorf("attach %s: %w", TAPName(sandbox), err)
	}
	link := Link{TAP: TAPName(sandbox), MAC: GuestMAC(sandbox), Guest: slot.Guest, Gateway: slot.Gateway, Index: slot.Index, Owner: slot.Owner}
	if one.policy.IPv6 {
		link.IPv6 = slot.IPv6
	}
	return link, nil
}

// attach attaches one, whose device it finds.
func (n *Network) attach(ctx context.Context, one attachment) error {
	name := TAPName(one.sandbox)
	index, err := n.ifindex(name)
	if err != nil {
		return err
	}
	if index != 0 {
		one.device = uint32(index)
		return n.reattach(one)
	}
	if index, err = n.pool.take(ctx, one.slot); err != nil {
		return err
	}
	one.device = uint32(index)
	if err = n.connect(one); err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(err, n.forget(one), n.discard(name), n.discard(poolName(one.slot.Index)))
	}
	return nil
}

// connect gives a device to a sandbox: first the policy, then the name and the way. It can be repeated.
func (n *Network) connect(one attachment) error {
	if err := n.enforce(one); err != nil {
		return err
	}
	if err := n.handOver(int(one.device), TAPName(one.sandbox)); err != nil {
		return err
	}
	if one.policy.IPv6 {
		return n.openIPv6(one.sandbox, one.device, one.slot)
	}
	return nil
}

// reattach makes sure that the device of this name is the slot's TAP, and finishes what a killed
// process may have left half done.
func (n *Network) reattach(one attachment) error {
	name, slot := TAPName(one.sandbox), one.slot
	link, err := n.tap(name, int(one.device))
	if err != nil {
		return err
	}
	address, err := n.address(name)
	switch {
	case err != nil:
		return err
	case address.IsValid() && address != slot.Gateway:
		return models.Errorf(models.Conflict, "device %s has address %s, not %s", name, address, slot.Gateway)
	case address == slot.Gateway && link.Attrs().Flags&net.FlagUp != 0:
		return n.resume(link, one)
	}
	if err := n.dress(int(one.device), slot); err != nil {
		return err
	}
	return n.connect(one)
}

// resume makes what is there equal to the policy.
func (n *Network) resume(link netlink.Link, one attachment) error {
	if !one.policy.IPv6 {
		return errors.Join(n.enforce(one), n.closeIPv6(link, one.slot))
	}
	if err := n.openIPv6(one.sandbox, one.device, one.slot); err != nil {
		return err
	}
	return n.enforce(one)
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

// handOver is `ip link set dev index name name up`, in one request.
func (n *Network) handOver(index int, name string) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	request.Sockets = n.links
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	message.Flags, message.Change = unix.IFF_UP, unix.IFF_UP
	request.AddData(message)
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("name and turn on: %w", err)
	}
	return nil
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
