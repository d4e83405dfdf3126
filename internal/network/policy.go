package network

import (
	"net/netip"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Policy says what a sandbox may reach. What is always denied (other sandboxes, the host, link-local addresses and cloud
// metadata, multicast, broadcast, loopback, IPv6) is so under every policy. Of the rest, an address in Allow, or one that
// Pin let in, is allowed; else one in Deny is refused; else private ranges are refused; else Internet decides.
type Policy struct {
	Internet bool           // whether what no rule names is allowed; private ranges never are
	Allow    []netip.Prefix // IPv4 destinations
	Deny     []netip.Prefix // IPv4 destinations
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
	Protocol string         // tcp, udp, icmp, or the number of another one
	To       netip.AddrPort // port 0 where the protocol has none
	Rule     string         // one of Rules
	Count    int            // how many packets of this kind this stands for, of those that were sampled
}

// Counters are a sandbox's traffic since it was attached.
type Counters struct {
	SentPackets, SentBytes         uint64 // by the guest
	ReceivedPackets, ReceivedBytes uint64 // by the guest
	Refused                        map[string]uint64 // packets of the guest, by rule
}
