package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// DefaultSubnetIPv6 has the letters of the name as its global id: RFC 4193, 3.2. As the addresses never leave the host, it is the same for all.
var DefaultSubnetIPv6 = netip.MustParsePrefix("fd57:5245:4e4e::/112")

const (
	slotBitsIPv6 = 126
	maxIPv6Bits  = 112 // leaves four addresses for each of the 16,384 slots that there can be
)

// ipv6Of are the addresses of a slot.
func ipv6Of(subnet netip.Prefix, index int) IPv6 {
	at := func(n int) netip.Addr {
		b := subnet.Addr().As16()
		low := b[addressLength-4:]
		binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)|uint32(index<<2+n))
		return netip.AddrFrom16(b)
	}
	return IPv6{Gateway: at(1), Guest: netip.PrefixFrom(at(2), slotBitsIPv6)}
}

// IPv6 returns the IPv6 address of an attached sandbox, invalid when it has none; and, where its policy allows IPv6, what keeps it from reaching the
// world by that, "" for nothing. It is NotFound for a sandbox that is not attached.
func (n *Network) IPv6(sandbox id.Sandbox) (addr netip.Addr, why string, err error) {
	one, err := n.attached.of(sandbox)
	info := n.Info()
	switch {
	case err != nil || one.withoutIPv6 != "":
		return netip.Addr{}, one.withoutIPv6, err
	case !one.policy.IPv6:
		return netip.Addr{}, "", nil
	case info.UplinkIPv6 == "":
		why = "the host has no route to the world by IPv6"
	default:
		why = info.ObstacleIPv6
	}
	return one.slot.IPv6.Guest.Addr(), why, nil
}

// ipv6Host is whether the host forwards IPv6. It is looked after when the first sandbox is to have it: who does not use it does not notice.
type ipv6Host struct {
	mu    sync.Mutex // held while that is seen to
	ready bool
}

// granted is p as this host can grant it, and why it has no IPv6 where it asks for that.
func (n *Network) granted(ctx context.Context, p Policy) (Policy, string, error) {
	if !p.IPv6 {
		return p, "", nil
	}
	n.ipv6.mu.Lock()
	defer n.ipv6.mu.Unlock()
	if n.ipv6.ready {
		return p, "", nil
	}
	why, err := n.prepareIPv6(ctx)
	if e := models.AsError(err); err != nil && e.Code == models.Precondition {
		why, err = fmt.Sprintf("%s: %s", e.Message, e.Hint), nil
	}
	if err != nil {
		return p, "", fmt.Errorf("prepare the host for IPv6: %w", err)
	}
	n.ipv6.ready = why == ""
	p.IPv6 = n.ipv6.ready
	return p, why, nil
}

// prepareIPv6 has the host forward IPv6, or returns why it cannot.
func (n *Network) prepareIPv6(ctx context.Context) (why string, err error) {
	if why, err = n.lacksIPv6(); err != nil || why != "" {
		return why, err
	}
	routes, err := n.routesIPv6()
	if err != nil {
		return "", err
	}
	if bad := collision(n.cfg.SubnetIPv6, routes); bad.IsValid() {
		return fmt.Sprintf("the sandboxes' IPv6 subnet %s collides with the host's route to %s; the operator can choose another (subnet_ipv6)", n.cfg.SubnetIPv6, bad), nil
	}
	changed, err := enableForwardingIPv6(n.host.knobs)
	if changed {
		n.log.InfoContext(ctx, "the host forwards IPv6 from now on, for sandboxes; its devices go on to accept router advertisements")
	}
	return "", err
}

// The knobs of the host: Documentation/networking/ip-sysctl.rst.
const (
	knobsIPv6      = "/proc/sys/net/ipv6/conf"
	disabledIPv6   = knobsIPv6 + "/default/disable_ipv6" // of the devices to come, as our TAPs are
	forwardingIPv6 = knobsIPv6 + "/all/forwarding"
)

// lacksIPv6 says what of IPv6 the kernel does not have.
func (n *Network) lacksIPv6() (why string, err error) {
	err = n.host.knobs(func() error {
		text, err := os.ReadFile(disabledIPv6)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			why = "the host's kernel has no IPv6"
		case err == nil && strings.TrimSpace(string(text)) != "0":
			why = "the host has IPv6 switched off (net.ipv6.conf.default.disable_ipv6)"
		case err != nil:
			return err
		}
		return nil
	})
	return why, err
}

// routesIPv6 lists the destinations of all IPv6 routes that are not by our TAPs.
func (n *Network) routesIPv6() (list []netip.Prefix, err error) {
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
		return n.route.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list IPv6 routes: %w", err)
	}
	for _, r := range all {
		if ours[r.LinkIndex] || r.Dst == nil {
			continue
		}
		if addr, ok := netip.AddrFromSlice(r.Dst.IP); ok && addr.Is6() {
			bits, _ := r.Dst.Mask.Size()
			list = append(list, netip.PrefixFrom(addr, bits))
		}
	}
	return list, nil
}

// enableForwardingIPv6 reports whether it had to do anything. A host that forwards no longer listens to router advertisements, and loses the
// default route that it has from one, unless its devices are told that both is meant (accept_ra=2): so they are told before.
func enableForwardingIPv6(within func(func() error) error) (changed bool, err error) {
	err = within(func() error {
		now, err := os.ReadFile(forwardingIPv6)
		if err != nil || strings.TrimSpace(string(now)) == "1" {
			return err
		}
		knobs, err := filepath.Glob(knobsIPv6 + "/*/accept_ra")
		for _, knob := range knobs {
			err = errors.Join(err, keepAdvertisements(knob))
		}
		if err == nil {
			err = os.WriteFile(forwardingIPv6, []byte("1"), 0)
		}
		if err != nil {
			return models.Errorf(models.Precondition, "cannot turn on IPv6 forwarding").
				WithHint("run `sysctl -w net.ipv6.conf.all.forwarding=1` where this host's kernel can be configured").WithCause(err)
		}
		changed = true
		return nil
	})
	return changed, err
}

func keepAdvertisements(knob string) error {
	now, err := os.ReadFile(knob)
	if errors.Is(err, fs.ErrNotExist) { // the device has gone
		return nil
	}
	if err != nil || strings.TrimSpace(string(now)) != "1" {
		return err
	}
	if err := os.WriteFile(knob, []byte("2"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
