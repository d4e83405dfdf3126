package main

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// configureNetwork gives eth0 an address in CIDR form.
func configureNetwork(address string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address of eth0: %w", err)
	}
	if err := netlink.AddrAdd(link, parsed); err != nil {
		return fmt.Errorf("address of eth0: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	return nil
}
