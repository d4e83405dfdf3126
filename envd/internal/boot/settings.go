package boot

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Settings are what makes one guest differ from another made of the same image. They
// come from the kernel arguments at boot, and from the host when it takes the guest
// over. A field with its zero value means: leave it as it is.
type Settings struct {
	Hostname string
	Address  netip.Prefix // of eth0, IPv4, with the length of its network
	Gateway  netip.Addr   // reached over eth0; only together with Address
	IPv6     *IPv6        // nil where there is an Address: eth0 has none
	DNS      []netip.Addr
	Time     time.Time
}

// IPv6 is eth0 by IPv6. All zero: it has none.
type IPv6 struct {
	Address netip.Prefix
	Gateway netip.Addr
}

// arguments are envd's own among the kernel arguments.
type arguments struct {
	transport string
	settings  Settings
}

// parseArguments takes what it understands from a kernel command line. What it does not
// understand is in the error, and left out.
func parseArguments(line string) (arguments, error) {
	var a arguments
	var failed []error
	for _, word := range strings.Fields(line) {
		key, value, ok := strings.Cut(word, "=")
		if name, ours := strings.CutPrefix(key, "wrenn."); ok && ours {
			if err := a.set(name, value); err != nil {
				failed = append(failed, fmt.Errorf("kernel argument %s: %w", word, err))
			}
		}
	}
	return a, errors.Join(failed...)
}

func (a *arguments) set(name, value string) (err error) {
	switch name {
	case "transport":
		a.transport = value
	case "hostname":
		a.settings.Hostname = value
	case "ip":
		a.settings.Address, err = netip.ParsePrefix(value)
	case "gw":
		a.settings.Gateway, err = netip.ParseAddr(value)
	case "ip6":
		a.ipv6().Address, err = netip.ParsePrefix(value)
	case "gw6":
		a.ipv6().Gateway, err = netip.ParseAddr(value)
	case "dns":
		a.settings.DNS, err = parseAddresses(value)
	}
	return err
}

// ipv6 is the setting, made where there is none yet.
func (a *arguments) ipv6() *IPv6 {
	if a.settings.IPv6 == nil {
		a.settings.IPv6 = &IPv6{}
	}
	return a.settings.IPv6
}

func parseAddresses(list string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for text := range strings.SplitSeq(list, ",") {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}
