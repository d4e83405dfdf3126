package network

import (
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The offsets in the IPv6 header and behind it: RFC 8200, 3.
const (
	atNextHeader  = 6
	atSourceIPv6  = 8
	atTargetIPv6  = 24
	behindHeader  = 40 // a fragment's next header is its first byte (RFC 8200, 4.5), as is the type of a message of ICMPv6 (RFC 4443, 2.1)
	atAskedForIs  = 48 // the address that a neighbour asks for: RFC 4861, 4.3
	addressLength = 16
)

// Next headers (RFC 8200, 4) and messages of ICMPv6 (RFC 4443, RFC 4861).
const (
	hopByHop    = unix.IPPROTO_HOPOPTS
	routing     = unix.IPPROTO_ROUTING
	fragmented  = unix.IPPROTO_FRAGMENT
	destOptions = unix.IPPROTO_DSTOPTS
	icmpv6      = unix.IPPROTO_ICMPV6

	unreachable    = 1
	tooBig         = 2
	timeExceeded   = 3
	badParameter   = 4
	echoIPv6       = 128
	echoReplyIPv6  = 129
	asksNeighbours = 135 // neighbour solicitation
)

// meta nfproto ipv6 ip6 saddr p
func sourceIPv6(p netip.Prefix) []expr.Any { return ipv6Address(atSourceIPv6, equal, p) }

// meta nfproto ipv6 ip6 daddr [!=] p
func targetIPv6(op expr.CmpOp, p netip.Prefix) []expr.Any { return ipv6Address(atTargetIPv6, op, p) }

// ipv6Address compares the prefix of the address at offset in the IPv6 header.
func ipv6Address(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	return join(
		meta(expr.MetaKeyNFPROTO, equal, []byte{ipv6}),
		[]expr.Any{
			loadIPv6Address(offset, 1),
			bitAnd(net.CIDRMask(p.Bits(), 8*addressLength)),
			&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
		})
}

func loadIPv6Address(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: addressLength}
}

// iif != @ipv6_devices
func withoutIPv6() []expr.Any { return []expr.Any{loadMeta(expr.MetaKeyIIF), notIn(ipv6Devices)} }

// iif . ether saddr . ip6 saddr != @guests_ipv6
func spoofedIPv6() []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyIIF),
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}, // IEEE 802.3: the source
		loadIPv6Address(atSourceIPv6, fourth),
		notIn(guestsIPv6),
	}
}

// iif . the address at offset @gateways_ipv6
func toGatewayIPv6(offset uint32) []expr.Any {
	return []expr.Any{loadMeta(expr.MetaKeyIIF), loadIPv6Address(offset, second), in(gatewaysIPv6)}
}

// meta nfproto ipv6 ip6 nexthdr icmpv6 icmpv6 type nd-neighbor-solicit iif . icmpv6 taddr @gateways_ipv6: unfragmented, since the
// kernel takes no other (RFC 6980).
func asksForGateway() []expr.Any {
	return join(
		meta(expr.MetaKeyNFPROTO, equal, []byte{ipv6}), byteAt(atNextHeader, equal, icmpv6), byteAt(behindHeader, equal, asksNeighbours),
		toGatewayIPv6(atAskedForIs))
}

// @nh,offset [!=] value
func byteAt(offset uint32, op expr.CmpOp, value byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{value}},
	}
}

// noneOf compares a byte with all of these.
func noneOf(offset uint32, values ...byte) (words []expr.Any) {
	for _, value := range values {
		words = append(words, byteAt(offset, unequal, value)...)
	}
	return words
}

// icmpv6 type [!=] echo-request
func pingIPv6(op expr.CmpOp) []expr.Any {
	return join(protocol(icmpv6), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{echoIPv6}},
	})
}

// meta mark . ip6 [sd]addr, its first bytes . length @set
func inIPv6Network(d direction, set string, length int) []expr.Any {
	const wordLength = 4
	words := []expr.Any{loadMeta(expr.MetaKeyMARK)}
	bytes := length / 8
	if bytes > 0 {
		words = append(words, &expr.Payload{DestRegister: second, Base: expr.PayloadBaseNetworkHeader, Offset: d.ipv6, Len: uint32(bytes)})
	}
	for i := (bytes + wordLength - 1) / wordLength; i < addressLength/wordLength; i++ { // the kernel clears no more than the last word begun
		words = append(words, loadWord(0, second+uint32(i)))
	}
	return append(words, loadWord(uint32(length), sixth), in(set))
}

// meta mark . ip6 [sd]addr @pins_ipv6
func pinnedIPv6(d direction) []expr.Any {
	return []expr.Any{loadMeta(expr.MetaKeyMARK), loadIPv6Address(d.ipv6, second), in(pinsIPv6)}
}

// meta mark map @policy_flags & flagIPv6 == 0
func isIPv4Policy() []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyMARK), mapped(flags, second),
		bitAndIn(second, []byte(word(flagIPv6))),
		&expr.Cmp{Op: equal, Register: second, Data: []byte(word(0))},
	}
}
