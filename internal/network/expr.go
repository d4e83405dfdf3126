package network

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// The words that rules are made of. Each function says, in nft(8)'s language, what it makes;
// a rule applies when all its words do, from left to right. All of them use register 1.

const (
	equal   = expr.CmpOpEq
	unequal = expr.CmpOpNeq
)

func join(words ...[]expr.Any) []expr.Any { return slices.Concat(words...) }

// iifname "tap-sb-*"
func fromTAP() []expr.Any { return meta(expr.MetaKeyIIFNAME, equal, []byte(tapPrefix)) }

// oifname "tap-sb-*"
func toTAP() []expr.Any { return meta(expr.MetaKeyOIFNAME, equal, []byte(tapPrefix)) }

// oifname != "tap-sb-*"
func notToTAP() []expr.Any { return meta(expr.MetaKeyOIFNAME, unequal, []byte(tapPrefix)) }

// meta nfproto != ipv4
func notIPv4() []expr.Any { return meta(expr.MetaKeyNFPROTO, unequal, []byte{ipv4}) }

// meta nfproto ipv4 ip saddr [!=] p
func source(op expr.CmpOp, p netip.Prefix) []expr.Any { return ipAddress(12, op, p) }

// meta nfproto ipv4 ip daddr [!=] p
func target(op expr.CmpOp, p netip.Prefix) []expr.Any { return ipAddress(16, op, p) }

// fib saddr . iif oif 0
func noWayBack() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: equal, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// fib daddr . iif type local
func localOnInput() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, FlagIIF: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: equal, Register: 1, Data: binaryutil.NativeEndian.PutUint32(rtnLocal)},
	}
}

// meta nfproto ipv4 icmp type echo-request
func echoRequest() []expr.Any {
	return join(
		meta(expr.MetaKeyNFPROTO, equal, []byte{ipv4}),
		meta(expr.MetaKeyL4PROTO, equal, []byte{icmp}),
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Cmp{Op: equal, Register: 1, Data: []byte{echo}},
		})
}

// ct state bits
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		bitAnd(binaryutil.NativeEndian.PutUint32(bits)),
		&expr.Cmp{Op: unequal, Register: 1, Data: make([]byte, 4)},
	}
}

// ct mark set ip saddr
func markWithSource() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Ct{Register: 1, Key: expr.CtKeyMARK, SourceRegister: true},
	}
}

// tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu
//
// The way out may carry less than the 1,500 bytes of a TAP, as on many clouds, and the ICMP
// messages that would say so are often lost.
func clampSegments() []expr.Any {
	return join(
		meta(expr.MetaKeyL4PROTO, equal, []byte{tcp}),
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
			bitAnd([]byte{tcpSYN | tcpRST}),
			&expr.Cmp{Op: equal, Register: 1, Data: []byte{tcpSYN}},
			&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: 1, Type: mssKind, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
		})
}

// masquerade
func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// accept
func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// counter drop
func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// jump name
func jump(name string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}
}

func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

// ipAddress compares the prefix of the address at offset in the IPv4 header: RFC 791, 3.1.
func ipAddress(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	return join(
		meta(expr.MetaKeyNFPROTO, equal, []byte{ipv4}),
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			bitAnd(net.CIDRMask(p.Bits(), 32)),
			&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
		})
}

func bitAnd(mask []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}
