package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// checkCollisions makes sure that no route of the host leads into the subnet or through it,
// except by our own TAPs.
func (n *Network) checkCollisions() error {
	routes, err := n.routes()
	if err != nil {
		return err
	}
	bad := collision(n.info.Subnet, routes)
	if !bad.IsValid() {
		return nil
	}
	coded := models.Errorf(models.Precondition, "sandbox subnet %s collides with the host's route to %s", n.info.Subnet, bad)
	for _, other := range []string{"10.64.0.0/16", "10.200.0.0/16", "172.20.0.0/16", "172.30.0.0/16", "192.168.0.0/16"} {
		if p := netip.MustParsePrefix(other); !collision(p, routes).IsValid() {
			return coded.WithHint("choose another one; %s is free here", p)
		}
	}
	return coded.WithHint("choose one that `ip route` does not show")
}

// collision returns the first route that shares addresses with subnet. Routes to more than a /8 are
// default routes, also in the form of two halves, as VPNs make them.
func collision(subnet netip.Prefix, routes []netip.Prefix) netip.Prefix {
	for _, route := range routes {
		if route.Bits() >= 8 && route.Overlaps(subnet) {
			return route
		}
	}
	return netip.Prefix{}
}

// routes lists the destinations of all IPv4 routes of all tables that are not by our TAPs.
func (n *Network) routes() ([]netip.Prefix, error) {
	links, err := whole(n.route.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	ours := map[int]bool{}
	for _, link := range links {
		if _, tap := link.(*netlink.Tuntap); tap && strings.HasPrefix(link.Attrs().Name, anyTAP) {
			ours[link.Attrs().Index] = true
		}
	}
	all, err := whole(func() ([]netlink.Route, error) {
		return n.route.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var list []netip.Prefix
	for _, r := range all {
		if !ours[r.LinkIndex] {
			list = append(list, destination(r))
		}
	}
	return list, nil
}

// whole asks for a list until nothing changed while the kernel told it: netlink(7), NLM_F_DUMP_INTR.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// destination returns where a route leads; the default route leads to 0.0.0.0/0.
func destination(r netlink.Route) netip.Prefix {
	if r.Dst == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	address, _ := netip.AddrFromSlice(r.Dst.IP.To4())
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(address, bits)
}

// occupied says whether the namespace has a free slot's address, or a route to it that is more
// than one to the whole subnet, but for the pool's own. A device has its address also while it is down.
func (n *Network) occupied(slot Slot) (bool, error) {
	for {
		device, unused := n.pool.at(slot.Index)
		if unused {
			return false, nil // the pool has looked
		}
		used, err := n.routed(slot, device)
		if now, unused := n.pool.at(slot.Index); !used || now == device && !unused {
			return used, err
		}
		// The pool has made a TAP meanwhile: the address may be that one's.
	}
}

// routed says whether there is such an address or route, but for those by one device. An address hides another one that is the same; the
// guest's shows a network that came to the host after the pool's TAP had the gateway's.
func (n *Network) routed(slot Slot, but int) (bool, error) {
	for _, address := range []netip.Addr{slot.Gateway, slot.Guest.Addr()} {
		routes, err := n.route.RouteGetWithOptions(address.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
		if err != nil && !noRoute(err) {
			return false, err
		}
		inside := func(r netlink.Route) bool { return destination(r).Bits() >= n.info.Subnet.Bits() && r.LinkIndex != but }
		if slices.ContainsFunc(routes, inside) {
			return true, nil
		}
	}
	return false, nil
}

// noRoute says whether there is no route (the first two), or a default route that refuses (ip-route(8)), or nothing of this family in the kernel.
func noRoute(err error) bool {
	return slices.ContainsFunc([]error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP},
		func(no error) bool { return errors.Is(err, no) })
}

// forwarding is net.ipv4.ip_forward of the calling thread's namespace: proc_sys_net(5).
const forwarding = "/proc/sys/net/ipv4/ip_forward"

// enableForwarding reports whether it had to do anything.
func enableForwarding(ns *netns.Namespace) (changed bool, err error) {
	err = ns.Do(func() error {
		now, err := os.ReadFile(forwarding)
		if err != nil || strings.TrimSpace(string(now)) == "1" {
			return err
		}
		if err := os.WriteFile(forwarding, []byte("1"), 0); err != nil {
			return models.Errorf(models.Precondition, "cannot turn on IPv4 forwarding").
				WithHint("run `sysctl -w net.ipv4.ip_forward=1` where this host's kernel can be configured").WithCause(err)
		}
		changed = true
		return nil
	})
	return changed, err
}

// obstacles says what on this host drops packets that our rules accept: in netfilter every
// table has its say, and one that drops is enough. Docker sets such a policy. A table's explicit
// rules are not judged, nor can the policy of the old iptables be seen. What is in the way of IPv6 alone is not among the warnings: few have it.
func (n *Network) obstacles() (warnings []string, ipv6 string, err error) {
	const remedy = "let sandboxes through: `iptables -I FORWARD -i tap-sb-+ -j ACCEPT` and " +
		"`iptables -I FORWARD -o tap-sb-+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT` " +
		"(where Docker runs, into chain DOCKER-USER), or the like with the firewall's own tool"
	conn, err := n.nftables()
	if err != nil {
		return nil, "", err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, "", fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range chains {
		if dropsForwarded(c, nftables.TableFamilyIPv4) {
			warnings = append(warnings, fmt.Sprintf("chain %s of nftables table %s drops forwarded packets by default; %s", c.Name, c.Table.Name, remedy))
		}
		if dropsForwarded(c, nftables.TableFamilyIPv6) {
			ipv6 = fmt.Sprintf("chain %s of the host's nftables table %s drops forwarded packets by default", c.Name, c.Table.Name)
		}
	}
	if legacyFilter(n.ns) {
		warnings = append(warnings, "the old iptables has a filter table, which may drop forwarded packets by default; if it does, "+remedy)
	}
	return warnings, ipv6, nil
}

// dropsForwarded says whether a chain that is not ours drops what is forwarded of a family by default.
func dropsForwarded(c *nftables.Chain, of nftables.TableFamily) bool {
	return c.Table.Name != tableName && (c.Table.Family == nftables.TableFamilyINet || c.Table.Family == of) &&
		c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

func legacyFilter(ns *netns.Namespace) (found bool) {
	err := ns.Do(func() error {
		tables, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
		found = slices.Contains(strings.Fields(string(tables)), "filter")
		return err
	})
	return found && err == nil // a kernel without the old iptables has no such file
}
