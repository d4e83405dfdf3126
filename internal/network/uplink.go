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
	conn, err := mdnetlink.Dial(unix.NETLINK_ROUTE, &mdnetlink.Config{NetNS: n.ns.FD(), Groups: 1 << (unix.RTNLGRP_IPV4_ROUTE - 1)})
	if err != nil {
		return fmt.Errorf("watch the host's routes: %w", err)
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
	uplink, err := n.uplink()
	if err != nil || uplink == n.Info().Uplink {
		return
	}
	n.log.InfoContext(ctx, "the host's uplink has changed", "from", n.Info().Uplink, "to", uplink)
	if err := n.look(ctx, n.missing); err != nil {
		n.log.WarnContext(ctx, "cannot see what keeps sandboxes from the network", "error", err)
	}
}

// look finds the uplink and what is in the way of sandboxes, and logs what it has not logged yet.
func (n *Network) look(ctx context.Context, missing []string) error {
	n.missing = missing
	uplink, err := n.uplink()
	if err != nil {
		return err
	}
	warnings, err := n.obstacles()
	if err != nil {
		return err
	}
	warnings = append(slices.Clone(missing), warnings...)
	if uplink == "" {
		warnings = append(warnings, "the host has no default route, so that sandboxes reach nothing beyond its own networks; add one when it is to have one")
	}
	n.infoMu.Lock()
	before := n.info.Warnings
	n.info.Uplink, n.info.Warnings = uplink, warnings
	n.infoMu.Unlock()
	for _, warning := range warnings {
		if !slices.Contains(before, warning) {
			n.log.WarnContext(ctx, "sandboxes may have no network", "why", warning)
		}
	}
	return nil
}

// uplink is the device that the world is reached by: that of the route to an address that no host has (RFC 5737).
func (n *Network) uplink() (string, error) {
	routes, err := n.route.RouteGet(net.IPv4(203, 0, 113, 1))
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
