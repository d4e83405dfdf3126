package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	mdnetlink "github.com/mdlayher/netlink"
)

// watchUplink looks again whenever the host's routes change. Connections that left by another device are ended by
// the kernel's masquerading, which sees that the way has changed: nf_nat_oif_changed, net/netfilter/nf_nat_core.c.
func (n *Network) watchUplink(ctx context.Context) error {
	conn, err := mdnetlink.Dial(unix.NETLINK_ROUTE, &mdnetlink.Config{NetNS: n.ns.FD(), Groups: 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)})
	if err != nil {
		return fmt.Errorf("watch the host's routes: %w", err)
	}
	if err := n.look(ctx); err != nil {
		return errors.Join(err, conn.Close())
	}
	changed := make(chan struct{}, 1)
	n.background.Go(func() { receive(conn, func([]mdnetlink.Message) { notify(changed) }) })
	n.background.Go(func() {
		defer conn.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				n.onRoutes(ctx)
			}
		}
	})
	return nil
}

// receive passes on what a connection receives until it is closed. What the kernel had no room for is as good as
// received: the receiver looks for itself.
func receive(conn *mdnetlink.Conn, each func([]mdnetlink.Message)) {
	for {
		messages, err := conn.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		each(messages)
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told already
	}
}

// onRoutes follows the uplink. Routes of our own TAPs change all the time and change nothing here.
func (n *Network) onRoutes(ctx context.Context) {
	uplink, ipv6, err := n.uplinks()
	info := n.Info()
	if err != nil || uplink == info.Uplink && ipv6 == info.UplinkIPv6 {
		return
	}
	n.log.InfoContext(ctx, "the host's uplink has changed", "from", info.Uplink, "to", uplink, "ipv6_from", info.UplinkIPv6, "ipv6_to", ipv6)
	if err := n.look(ctx); err != nil {
		n.log.WarnContext(ctx, "cannot see what keeps sandboxes from the network", "error", err)
	}
}

// look finds the uplink and what is in the way of sandboxes, and logs what it has not logged yet.
func (n *Network) look(ctx context.Context) error {
	uplink, ipv6, err := n.uplinks()
	if err != nil {
		return err
	}
	warnings, obstacle, err := n.obstacles()
	if err != nil {
		return err
	}
	warnings = append(slices.Clone(n.missing), warnings...)
	if uplink == "" {
		warnings = append(warnings, "the host has no default route, so that sandboxes reach nothing beyond its own networks; add one when it is to have one")
	}
	n.infoMu.Lock()
	before := n.info.Warnings
	n.info.Uplink, n.info.UplinkIPv6, n.info.ObstacleIPv6, n.info.Warnings = uplink, ipv6, obstacle, warnings
	n.infoMu.Unlock()
	for _, warning := range warnings {
		if !slices.Contains(before, warning) {
			n.log.WarnContext(ctx, "sandboxes may have no network", "why", warning)
		}
	}
	return nil
}

// uplinks are the devices that the world is reached by: those of the routes to addresses that no host has (RFC 5737, RFC 3849).
func (n *Network) uplinks() (ipv4, ipv6 string, err error) {
	if ipv4, err = n.uplinkTo(net.IPv4(203, 0, 113, 1)); err == nil {
		ipv6, err = n.uplinkTo(net.ParseIP("2001:db8:cb00:7101::1"))
	}
	return ipv4, ipv6, err
}

func (n *Network) uplinkTo(addr net.IP) (string, error) {
	routes, err := n.route.RouteGet(addr)
	switch {
	case noRoute(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("find the uplink: %w", err)
	case len(routes) == 0:
		return "", nil
	}
	link, err := n.route.LinkByIndex(routes[0].LinkIndex)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the uplink: %w", err)
	}
	return link.Attrs().Name, nil
}
