package network

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Policy says what a sandbox may reach. What is always denied (other sandboxes, the host, link-local addresses and cloud
// metadata, multicast, broadcast, loopback) is so under every policy. Of the rest, an address in Allow, or one that
// Pin let in, is allowed; else one in Deny is refused; else private ranges are refused; else Internet decides.
type Policy struct {
	Internet bool           // whether what no rule names is allowed; private ranges never are
	IPv6     bool           // whether any of it is by IPv6; where the host has none, there is none: see Network.IPv6
	Allow    []netip.Prefix // destinations; those of IPv6 count with IPv6 alone
	Deny     []netip.Prefix // the same
	Names    bool           // there are rules by name: nobody but the host's forwarder may be asked for names
	Limits   Limits
}

// Limits bound what a sandbox takes of the host's network. Zero values are the host's defaults.
type Limits struct {
	UploadBytes    uint64 // a second, from the guest
	DownloadBytes  uint64 // a second, to the guest
	Packets        uint64 // a second, from the guest
	Connections    uint32 // open at the same time; counted up to the next power of two
	NewConnections uint32 // a second
}

// DefaultPolicy is that of a sandbox whose owner asked for nothing: the internet, and no private network.
var DefaultPolicy = Policy{Internet: true}

// Refusal is traffic of a sandbox that a rule dropped.
type Refusal struct {
	At       time.Time
	Sandbox  id.Sandbox
	Protocol string         // tcp, udp, icmp, icmpv6, or the number of another one
	To       netip.AddrPort // port 0 where the protocol has none
	Rule     string         // one of Rules
	Count    int            // how many packets of this kind this stands for, of those that were sampled
}

// Counters are a sandbox's traffic since it was attached.
type Counters struct {
	SentPackets, SentBytes         uint64            // by the guest
	ReceivedPackets, ReceivedBytes uint64            // by the guest
	Refused                        map[string]uint64 // packets of the guest, by the rules that refused any
}

// defaultLimits are those of a sandbox where neither its policy nor the host's configuration says anything else.
var defaultLimits = Limits{UploadBytes: 125e6, DownloadBytes: 125e6, Packets: 50_000, Connections: 2048, NewConnections: 500}

// or fills in what l leaves open.
func (l Limits) or(other Limits) Limits {
	return Limits{
		UploadBytes:    cmp.Or(l.UploadBytes, other.UploadBytes),
		DownloadBytes:  cmp.Or(l.DownloadBytes, other.DownloadBytes),
		Packets:        cmp.Or(l.Packets, other.Packets),
		Connections:    cmp.Or(l.Connections, other.Connections),
		NewConnections: cmp.Or(l.NewConnections, other.NewConnections),
	}
}

// What a guest may do in a second whatever its policy: questions to the host's forwarder, fragments, and refusals
// that are told of.
const (
	namesPerSecond      = 100
	fragmentsPerSecond  = 1000
	neighboursPerSecond = 100 // questions where the gateway is, by IPv6
	refusalsPerSecond   = 20
)

// maxPrefixes is how many networks a policy may name, and maxNetworks how many they may be for the rules, which know
// networks of whole bytes: a /9 is 128 of them, a /24 is one.
const (
	maxPrefixes = 1000
	maxNetworks = 20_000
)

// check says what of a policy cannot be.
func (p Policy) check() error {
	if n := len(p.Allow) + len(p.Deny); n > maxPrefixes {
		return models.Errorf(models.Invalid, "a network policy names %d networks; %d are possible", n, maxPrefixes)
	}
	count := 0
	for _, list := range [][]netip.Prefix{p.Allow, p.Deny} {
		for _, network := range list {
			if !network.IsValid() || network.Addr().Is4In6() {
				return models.Errorf(models.Invalid, "a network policy cannot name %s", network).
					WithHint("name IPv4 and IPv6 networks, as in 203.0.113.0/24 and 2001:db8::/32")
			}
			count += 1 << (-network.Bits() & (prefixStep - 1))
		}
	}
	if count > maxNetworks {
		return models.Errorf(models.Invalid, "a network policy names networks that are %d when cut to whole bytes; %d are possible", count, maxNetworks).
			WithHint("name fewer, or such as are a /8, a /16, a /24, a /32, or in IPv6 of any whole number of bytes")
	}
	return nil
}

// bits are the policy in the map flags.
func (p Policy) bits(l Limits) uint32 {
	bits := uint32(connectionClass(l.Connections)) << classShift
	if p.Internet {
		bits |= flagInternet
	}
	if p.Names {
		bits |= flagNames
	}
	if p.IPv6 {
		bits |= flagIPv6
	}
	if p.Names || len(p.Allow)+len(p.Deny) > 0 {
		bits |= flagOwnRules
	}
	return bits
}

// elements are the policy of a device: what it says, found by its mark, and limits, found by the device.
func (p Policy) elements(device, mark uint32, l Limits) []element {
	list := append([]element{{slotOf{flags, word(mark)}, content{data: word(p.bits(l))}}}, l.elements(device)...)
	list = append(list, networks(mark, p.Allow, allowed, allowedIPv6)...)
	list = append(list, networks(mark, p.Deny, denied, deniedIPv6)...)
	if p.IPv6 {
		list = append(list, limited(device, limitNeighbours, limit{rate: neighboursPerSecond}))
	}
	return list
}

// elements are the limits of a device.
func (l Limits) elements(device uint32) []element {
	return []element{
		limited(device, limitPackets, limit{rate: l.Packets}),
		limited(device, limitConnections, limit{rate: uint64(l.NewConnections)}),
		limited(device, limitNames, limit{rate: namesPerSecond}),
		limited(device, limitFragments, limit{rate: fragmentsPerSecond}),
		limited(device, limitSamples, limit{rate: refusalsPerSecond, under: true}),
		limited(device, limitUpload, limit{rate: l.UploadBytes, bytes: true}),
		limited(device, limitDownload, limit{rate: l.DownloadBytes, bytes: true}),
	}
}

func limited(device, kind uint32, l limit) element {
	return element{slotOf{limits, word(device) + word(kind)}, content{limit: l}}
}

// networks are prefixes as elements of the sets of their families, each once, of lengths that the rules ask for.
func networks(mark uint32, prefixes []netip.Prefix, set, setIPv6 string) (list []element) {
	seen := map[netip.Prefix]bool{}
	for _, prefix := range prefixes {
		set := set
		if prefix.Addr().Is6() {
			set = setIPv6
		}
		for _, network := range split(prefix.Masked()) {
			if !seen[network] {
				seen[network] = true
				list = append(list, element{slotOf: slotOf{set, word(mark) + ip(network.Addr()) + word(uint32(network.Bits()))}})
			}
		}
	}
	return list
}

// split cuts a network into those of the next length that the rules ask for.
func split(p netip.Prefix) []netip.Prefix {
	last := (p.Bits() + prefixStep - 1) / prefixStep // byte that differs
	list := make([]netip.Prefix, 1<<(last*prefixStep-p.Bits()))
	for i := range list {
		begin := p.Addr().AsSlice()
		if i > 0 {
			begin[last-1] |= byte(i)
		}
		addr, _ := netip.AddrFromSlice(begin) // it was one
		list[i] = netip.PrefixFrom(addr, last*prefixStep)
	}
	return list
}
