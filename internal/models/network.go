package models

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// NetworkPolicy says what a sandbox may reach. What is always denied beats Allow, Allow beats Deny, and Deny
// beats Internet, for addresses and for names alike.
type NetworkPolicy struct {
	Generation int64 // grows by one with every change, by which a host tells a newer policy from an older one
	Internet   bool  // whether what no rule names is allowed
	IPv6       bool  // whether any of it is by IPv6, where the host has that
	Allow      []Destination
	Deny       []Destination
	Limits     NetworkLimits
}

// NetworkLimits bound what a sandbox may take of its host's network. Zero values mean the host's defaults.
type NetworkLimits struct {
	UploadMbit           int // a second, from the sandbox
	DownloadMbit         int // a second, to the sandbox
	PacketsPerSecond     int // from the sandbox
	Connections          int // at the same time
	ConnectionsPerSecond int // new ones
}

// Limits of a policy.
const (
	MaxNetworkRules     = 256 // of each list
	MaxMbit             = 100_000
	MaxPacketsPerSecond = 10_000_000
	MaxConnections      = 65_536
)

// DefaultNetwork is the policy of a sandbox whose creator says nothing.
func DefaultNetwork() NetworkPolicy { return NetworkPolicy{Internet: true} }

// NetworkChange changes a policy: each member that is not nil takes the place of what was there, a list as a whole.
type NetworkChange struct {
	Internet    *bool
	IPv6        *bool
	Allow, Deny *[]Destination
	Limits      NetworkLimitsChange
	Generation  *int64 // that the policy must have for the change to be made
}

// NetworkLimitsChange changes limits likewise.
type NetworkLimitsChange struct {
	UploadMbit, DownloadMbit, PacketsPerSecond, Connections, ConnectionsPerSecond *int
}

// Of returns p as c changes it.
func (c NetworkChange) Of(p NetworkPolicy) NetworkPolicy {
	take(&p.Internet, c.Internet)
	take(&p.IPv6, c.IPv6)
	take(&p.Allow, c.Allow)
	take(&p.Deny, c.Deny)
	take(&p.Limits.UploadMbit, c.Limits.UploadMbit)
	take(&p.Limits.DownloadMbit, c.Limits.DownloadMbit)
	take(&p.Limits.PacketsPerSecond, c.Limits.PacketsPerSecond)
	take(&p.Limits.Connections, c.Limits.Connections)
	take(&p.Limits.ConnectionsPerSecond, c.Limits.ConnectionsPerSecond)
	return p
}

func take[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Equal tells whether two policies say the same in the same order, whatever their generations.
func (p NetworkPolicy) Equal(q NetworkPolicy) bool {
	return p.Internet == q.Internet && p.IPv6 == q.IPv6 && slices.Equal(p.Allow, q.Allow) && slices.Equal(p.Deny, q.Deny) && p.Limits == q.Limits
}

// NetworkIPv6 is what a sandbox has of IPv6.
type NetworkIPv6 struct {
	Address netip.Addr // invalid: it has none
	Why     string     // why it does not reach the world by IPv6, where its policy allows that; empty: it does
}

// NetworkCounters are what a sandbox's network has carried since the sandbox was created, or its host restarted.
type NetworkCounters struct {
	SentPackets, SentBytes         uint64
	ReceivedPackets, ReceivedBytes uint64
	Dropped                        map[string]uint64 // packets, by the rule that dropped them
}

// NetworkRefusal is what a sandbox was refused, and how often: equal ones are counted.
type NetworkRefusal struct {
	First, Last time.Time
	Protocol    string         // tcp, udp, icmp, dns, or another protocol's name or number
	To          netip.AddrPort // invalid for a name; port 0 for what has none
	Name        string         // that was asked for; empty for addresses
	Rule        string         // a word
	Why         string         // what that word means, for users
	Count       int64
}

// NetworkRefusals is what a sandbox's journal holds.
type NetworkRefusals struct {
	Items     []NetworkRefusal // the latest first
	Forgotten int64            // refusals that are not in Items any more, since the journal is bounded
}

// AlwaysDenied is what no sandbox reaches, whatever its policy says; each host adds its own addresses and
// those of its sandboxes.
var AlwaysDenied = []Range{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local addresses and cloud metadata"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast, reserved addresses and broadcast"},

	{netip.MustParsePrefix("::/3"), "loopback, ways to IPv4 and reserved addresses"},
	{netip.MustParsePrefix("2001::/32"), "a way to IPv4: Teredo"},
	{netip.MustParsePrefix("2002::/16"), "a way to IPv4: 6to4"},
	{netip.MustParsePrefix("4000::/2"), "reserved addresses"},
	{netip.MustParsePrefix("8000::/2"), "reserved addresses"},
	{netip.MustParsePrefix("c000::/3"), "reserved addresses"},
	{netip.MustParsePrefix("e000::/4"), "reserved addresses"},
	{netip.MustParsePrefix("f000::/5"), "reserved addresses"},
	{netip.MustParsePrefix("f800::/6"), "reserved addresses"},
	{netip.MustParsePrefix("fe00::/7"), "link-local addresses, multicast and reserved addresses"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "cloud metadata"},
	{netip.MustParsePrefix("fd20:ce::/32"), "cloud metadata"},
}

// PrivateRanges are denied unless a policy allows them, which it may where the operator permits it.
var PrivateRanges = []Range{
	{netip.MustParsePrefix("10.0.0.0/8"), "private addresses (RFC 1918)"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared addresses of carriers (RFC 6598)"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private addresses (RFC 1918)"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments (RFC 6890)"},
	{netip.MustParsePrefix("192.88.99.0/24"), "relays to IPv6 (RFC 7526)"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private addresses (RFC 1918)"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarks (RFC 2544)"},

	{netip.MustParsePrefix("2001::/23"), "protocol assignments (RFC 6890)"},
	{netip.MustParsePrefix("fc00::/7"), "private addresses (RFC 4193)"},
}

// Range is a range of addresses and what they are.
type Range struct {
	netip.Prefix
	What string
}

// CheckNetwork returns an Invalid error for a policy that no sandbox can have, and a Forbidden one for a private range
// that is allowed and not within permitted. Each names the rule by its list and place.
func CheckNetwork(p NetworkPolicy, permitted []netip.Prefix) error {
	for _, list := range []struct {
		name  string
		rules []Destination
	}{{"allow", p.Allow}, {"deny", p.Deny}} {
		if len(list.rules) > MaxNetworkRules {
			return Errorf(Invalid, "network.%s must have at most %d rules, not %d", list.name, MaxNetworkRules, len(list.rules))
		}
		if i := slices.IndexFunc(list.rules, func(d Destination) bool { return d.Prefix.Addr().Is6() }); i >= 0 && !p.IPv6 {
			return Errorf(Invalid, "network.%s[%d]: %s is IPv6, which the policy does not allow", list.name, i, list.rules[i]).
				WithHint("leave it out, or set \"ipv6\": \"on\"; without, no IPv6 address is reached")
		}
		if i := duplicate(list.rules); i >= 0 {
			return Errorf(Invalid, "network.%s[%d]: %s is there twice", list.name, i, list.rules[i])
		}
	}
	for i, d := range p.Allow {
		if err := checkAllowed(fmt.Sprintf("network.allow[%d]", i), d.Prefix, permitted); err != nil {
			return err
		}
	}
	return checkNetworkLimits(p.Limits)
}

func duplicate(rules []Destination) int {
	seen := make(map[Destination]bool, len(rules))
	for i, d := range rules {
		if seen[d] {
			return i
		}
		seen[d] = true
	}
	return -1
}

func checkAllowed(where string, p netip.Prefix, permitted []netip.Prefix) error {
	for _, r := range AlwaysDenied {
		if p.IsValid() && p.Overlaps(r.Prefix) {
			return Errorf(Invalid, "%s: %s cannot be allowed, since no sandbox may reach %s (%s)", where, p, r.Prefix, r.What).
				WithHint("leave that range out; \"internet\": \"on\" allows all public addresses")
		}
	}
	for _, r := range PrivateRanges {
		if p.IsValid() && p.Overlaps(r.Prefix) && !within(p, permitted) {
			return Errorf(Forbidden, "%s: %s is within, or contains, %s (%s), which this service does not let sandboxes reach", where, p, r.Prefix, r.What).
				WithHint("the operator can permit it with private_networks (WRENN_PRIVATE_NETWORKS)")
		}
	}
	return nil
}

func within(p netip.Prefix, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) })
}

func checkNetworkLimits(l NetworkLimits) error {
	for _, v := range []struct {
		name        string
		value, most int
	}{
		{"upload_mbit", l.UploadMbit, MaxMbit},
		{"download_mbit", l.DownloadMbit, MaxMbit},
		{"packets_per_second", l.PacketsPerSecond, MaxPacketsPerSecond},
		{"connections", l.Connections, MaxConnections},
		{"connections_per_second", l.ConnectionsPerSecond, MaxConnections},
	} {
		if v.value < 0 || v.value > v.most {
			return Errorf(Invalid, "network.limits.%s must be between 0 (the host's default) and %d, not %d", v.name, v.most, v.value)
		}
	}
	return nil
}
