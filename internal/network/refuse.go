package network

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rules are the names of the rules that refuse what a guest sends, as in Refusal and Counters. Their order is that of
// the elements of the set refusals: a new one is added at the end.
var Rules = []string{
	ruleIPv6, ruleSpoofed, ruleLinkLocal, ruleMulticast, ruleLoopback, ruleThisNetwork, ruleOptions, ruleProtocol, ruleFragments,
	ruleSandbox, ruleHost, ruleInvalid, rulePrivate, ruleDenied, ruleInternet, ruleNames, rulePackets, ruleBandwidth, ruleConnections,
	ruleEmbedded,
}

const (
	ruleIPv6        = "ipv6"            // IPv6 that the policy does not allow, or the host does not have
	ruleSpoofed     = "spoofed"         // a source that is not the sandbox's own, or from a sandbox that has no policy yet
	ruleLinkLocal   = "link_local"      // 169.254.0.0/16, fe80::/10, and what clouds have for metadata
	ruleMulticast   = "multicast"       // multicast, reserved, broadcast
	ruleLoopback    = "loopback"        // 127.0.0.0/8
	ruleThisNetwork = "this_network"    // 0.0.0.0/8, ::
	ruleOptions     = "ip_options"      // source routes and the like, and the headers of IPv6 for them
	ruleProtocol    = "protocol"        // neither TCP nor UDP nor a ping: tunnels, SCTP
	ruleFragments   = "fragments"       // too many of them
	ruleSandbox     = "sandbox"         // another sandbox, or where one could be
	ruleHost        = "host"            // an address of the host
	ruleInvalid     = "invalid"         // an answer that nobody asked for, and what connection tracking does not understand
	rulePrivate     = "private"         // a private range that the policy does not allow
	ruleDenied      = "denied"          // denied by the policy
	ruleInternet    = "internet"        // not allowed by a policy that has the internet off
	ruleNames       = "dns"             // another name server than the host's forwarder, or too many questions to that
	rulePackets     = "packet_rate"     // too many packets
	ruleBandwidth   = "bandwidth"       // too many bytes
	ruleConnections = "connection_rate" // too many connections, open or new
	ruleEmbedded    = "ipv4_in_ipv6"    // an IPv6 address that stands for an IPv4 one: NAT64, 6to4, Teredo
)

// refuse is what ends a rule that refuses: a chain of this reason that counts, tells and drops.
func refuse(reason string) []expr.Any { return goTo(refuseChain(reason)) }

func refuseChain(reason string) string { return "refuse_" + reason }

// refuseChains are the chains that refuse leads to. With tell they pass a sample on to Refusals.
func refuseChains(tell bool) []chain {
	list := make([]chain, 0, len(Rules))
	for i, reason := range Rules {
		rules := []rule{{"", []expr.Any{loadMeta(expr.MetaKeyIIF), loadWord(uint32(i), second), in(refusals)}}}
		if tell {
			rules = append(rules, rule{"", sample(reason)})
		}
		list = append(list, chain{name: refuseChain(reason), rules: append(rules, rule{reason, drop()})})
	}
	return list
}

// nflogGroup is the netlink group that samples are sent to: any number that others do not use.
const nflogGroup = 0x5752

// sampleBytes is as much of a packet as names where it went: the IPv4 header with options, or the IPv6 header with that of a
// fragment, and the ports.
const sampleBytes = 64

// samplesPerSecond bounds what the kernel tells about one reason, for all sandboxes.
const samplesPerSecond = 500

// iif . limitSamples @rate_limits limit rate 500/second log prefix reason group 0x5752 snaplen 64
func sample(reason string) []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyIIF), loadWord(limitSamples, second), in(limits),
		&expr.Limit{Type: expr.LimitTypePkts, Rate: samplesPerSecond, Unit: expr.LimitTimeSecond, Burst: samplesPerSecond},
		logTo(reason),
	}
}

func logTo(reason string) *expr.Log {
	return &expr.Log{
		Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
		Group: nflogGroup, Snaplen: sampleBytes, Data: []byte(reason),
	}
}
