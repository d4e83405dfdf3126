package network

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// openIPv6 gives a TAP the gateway's IPv6 address, and tells the host where the guest is: it never asks, so that nothing that a guest says of
// itself is believed. It can be repeated. The device must be on. That anything passes is for the policy to say.
func (n *Network) openIPv6(sandbox id.Sandbox, device uint32, slot Slot) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(device)}}
	if err := n.route.AddrReplace(link, gatewayIPv6(slot)); err != nil {
		return fmt.Errorf("set address %s: %w", slot.IPv6.Gateway, err)
	}
	guest := &netlink.Neigh{
		LinkIndex: int(device), Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT,
		IP: slot.IPv6.Guest.Addr().AsSlice(), HardwareAddr: GuestMAC(sandbox),
	}
	if err := n.route.NeighSet(guest); err != nil {
		return fmt.Errorf("set neighbour %s: %w", slot.IPv6.Guest.Addr(), err)
	}
	return nil
}

// closeIPv6 takes the address from a TAP; what is not there is none to take.
func (n *Network) closeIPv6(link netlink.Link, slot Slot) error {
	err := n.route.AddrDel(link, gatewayIPv6(slot))
	none := func(no error) bool { return errors.Is(err, no) }
	if err != nil && !slices.ContainsFunc([]error{unix.EADDRNOTAVAIL, unix.ENXIO, unix.EAFNOSUPPORT, unix.EOPNOTSUPP}, none) {
		return fmt.Errorf("remove address %s: %w", slot.IPv6.Gateway, err)
	}
	return nil
}

// gatewayIPv6 is an address that is used at once: on a TAP nobody else can have it.
func gatewayIPv6(slot Slot) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: slot.IPv6.Gateway.AsSlice(), Mask: net.CIDRMask(slotBitsIPv6, 8*addressLength)}, Flags: unix.IFA_F_NODAD,
	}
}

// elementsIPv6 are what the kernel holds for an attached sandbox that has IPv6.
func elementsIPv6(one attachment) []element {
	device, guest := word(one.device), ip(one.slot.IPv6.Guest.Addr())
	return []element{
		{slotOf{ipv6Devices, device}, content{}},
		{slotOf{guestsIPv6, device + ether(GuestMAC(one.sandbox)) + guest}, content{}},
		{slotOf{gatewaysIPv6, device + ip(one.slot.IPv6.Gateway)}, content{}},
	}
}
