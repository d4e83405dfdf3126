package network

import (
	"cmp"
	"errors"
	"maps"
	"net"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
)

// OnOlderKernel makes the host's kernel one without nflog and tables of family arp, that renames only devices that are off.
func (c Config) OnOlderKernel() Config {
	c.pretend = func(n *Network) {
		kernel := n.host
		n.host.supports = func(f family) (bool, error) {
			if f.of == nftables.TableFamilyARP || f.chains[0].name == "log" {
				return false, nil
			}
			return kernel.supports(f)
		}
		n.host.rename = func(link netlink.Link, name string) error {
			now, err := n.route.LinkByIndex(link.Attrs().Index)
			if err == nil && now.Attrs().Flags&net.FlagUp != 0 {
				return unix.EBUSY
			}
			return kernel.rename(link, name)
		}
	}
	return c
}

// Filled makes the host's table of connections as full as share says, in percent.
func (c Config) Filled(share *atomic.Int64) Config {
	c.pretend = func(n *Network) {
		n.host.share = func() (float64, error) { return float64(share.Load()) / 100, nil }
	}
	return c
}

// Behind has what is read and written of /proc/sys/net/ipv6 be what mount makes of it, in a mount namespace that nobody else sees.
func (c Config) Behind(mount func() error) Config {
	c.pretend = func(n *Network) {
		n.host.knobs = func(f func() error) error {
			return jail.OnOwnThread(func() error {
				err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
				return errors.Join(err, n.ns.Do(func() error { return cmp.Or(mount(), f()) }))
			})
		}
	}
	return c
}

// ConnectionShare is how full the host's table of connections really is.
func (n *Network) ConnectionShare() (float64, error) { return n.connectionShare() }

// Ready is how many TAPs of the pool are whole.
func (n *Network) Ready() int {
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	return len(n.pool.ready)
}

// BeginTAP has the pool begin with the TAP of a slot, and get no further.
func (n *Network) BeginTAP(slot int) { n.pool.begin(slot) }

// Drifted says whether the kernel's sets are not what n knows of them.
func (n *Network) Drifted() (bool, error) {
	n.held.mu.Lock()
	defer n.held.mu.Unlock()
	now := held{kernel: n.kernel, sets: n.held.sets}
	if err := now.read(); err != nil {
		return false, err
	}
	for device := range n.held.pins { // those that have come to their end are forgotten when they are asked for
		n.held.pinsOf(device)
		for at, p := range n.held.pins[device] {
			if there, ok := now.pins[device][at]; !ok || there.name != p.name {
				return true, nil
			}
		}
		if len(n.held.pins[device]) != len(now.pins[device]) {
			return true, nil
		}
	}
	for device := range now.pins { // those of no device, or of one that has none
		if len(n.held.pins[device]) == 0 {
			return true, nil
		}
	}
	return !maps.EqualFunc(n.held.elements, now.elements, maps.Equal[map[slotOf]content, map[slotOf]content]), nil
}
