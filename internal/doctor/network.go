package doctor

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func checkTUN(_ context.Context, m *machine) Finding {
	const name = "tun"
	err := m.openTUN(m.path("dev/net/tun"))
	switch {
	case err == nil:
		return ok(name, "/dev/net/tun works")
	case isMissing(err):
		return fail(name, "/dev/net/tun does not exist or has no driver", "modprobe tun; in a container: --device /dev/net/tun")
	default:
		return fail(name, fmt.Sprintf("/dev/net/tun cannot be used: %v", err), "run as root with CAP_NET_ADMIN")
	}
}

// openTUN asks the driver for its features (TUNGETFEATURES of linux/if_tun.h); no device is made.
func openTUN(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.IoctlGetUint32(int(f.Fd()), unix.TUNGETFEATURES)
	return err
}

// chain is a base chain of nftables that drops what nothing accepts.
type chain struct {
	table, name string
	forward     bool // hooked to forwarding
	drops       bool // policy drop
}

func listChains(context.Context) ([]chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	chains := make([]chain, len(all))
	for i, c := range all {
		chains[i] = chain{
			table: c.Table.Name, name: c.Name,
			forward: c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward,
			drops:   c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
		}
	}
	return chains, nil
}

func checkNftables(ctx context.Context, m *machine) Finding {
	if _, err := m.chains(ctx); err != nil {
		return fail("nf_tables", fmt.Sprintf("its rules cannot be listed: %v", err), "modprobe nf_tables, and run as root with CAP_NET_ADMIN")
	}
	return ok("nf_tables", "works")
}

// checkForwardPolicy looks for rules of others that drop what sandboxes send. An accept of ours does
// not help against them: every base chain of the hook has to accept (nft(8), "hooks").
func checkForwardPolicy(ctx context.Context, m *machine) Finding {
	const name = "forward policy"
	chains, err := m.chains(ctx)
	if err != nil {
		return warn(name, "not known", "see nf_tables")
	}
	for _, c := range chains {
		if !c.forward || !c.drops || strings.HasPrefix(c.table, "wrenn") {
			continue
		}
		fix := "nft add chain ip filter " + c.name + " '{ policy accept; }', or accept tap-sb-* in it"
		if m.exists("sys/class/net/docker0") {
			fix = "Docker sets it: iptables -I DOCKER-USER -i tap-sb-+ -j ACCEPT; iptables -I DOCKER-USER -o tap-sb-+ -j ACCEPT; or wrenn up --netns isolated"
		}
		return warn(name, fmt.Sprintf("chain %s of table %s drops forwarded packets: sandboxes have no network", c.name, c.table), fix)
	}
	return ok(name, "nothing drops forwarded packets")
}

func checkRoutes(_ context.Context, m *machine) Finding {
	const name = "subnet"
	subnet, err := netip.ParsePrefix(m.Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return fail(name, fmt.Sprintf("%q is no IPv4 network", m.Subnet), "give one such as 10.0.0.0/16")
	}
	for _, line := range strings.Split(m.read("proc/net/route"), "\n") {
		device, route, parsed := parseRoute(line)
		if parsed && route.Bits() > 0 && route.Overlaps(subnet) && !strings.HasPrefix(device, "tap-sb-") && !strings.HasPrefix(device, "wrenn") {
			return warn(name, fmt.Sprintf("%s of the sandboxes overlaps the route %s via %s", subnet, route, device),
				"choose a network that is not in use with --subnet, or: wrenn up --netns isolated")
		}
	}
	return ok(name, subnet.String()+" is free")
}

// parseRoute reads a line of /proc/net/route, whose addresses are hexadecimal words in the
// machine's byte order (proc_pid_net(5)).
func parseRoute(line string) (device string, route netip.Prefix, parsed bool) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return "", netip.Prefix{}, false
	}
	address, errAddress := hexAddress(f[1])
	mask, errMask := hexAddress(f[7])
	if errAddress != nil || errMask != nil {
		return "", netip.Prefix{}, false
	}
	bits := 0
	for v := binary.BigEndian.Uint32(mask.AsSlice()); v != 0; v <<= 1 {
		bits++
	}
	return f[0], netip.PrefixFrom(address, bits).Masked(), true
}

func hexAddress(s string) (netip.Addr, error) {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		return netip.Addr{}, err
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b), nil
}
