package network

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words that rules are made of. Each function says, in nft(8)'s language, what it makes;
// a rule applies when all its words do, from left to right.

const (
	equal   = expr.CmpOpEq
	unequal = expr.CmpOpNeq
)

// The registers of 32 bits, one after the other, so that what is loaded into them side by side is one key.
const (
	first  = unix.NFT_REG32_00
	second = unix.NFT_REG32_01
	third  = unix.NFT_REG32_02
	fourth = unix.NFT_REG32_03
	fifth  = unix.NFT_REG32_04
	sixth  = unix.NFT_REG32_05
)

func join(words ...[]expr.Any) []expr.Any { return slices.Concat(words...) }

// iifname "tap-*"
func fromTAP() []expr.Any { return meta(expr.MetaKeyIIFNAME, equal, []byte(anyTAP)) }

// iifname != "tap-*"
func notFromTAP() []expr.Any { return meta(expr.MetaKeyIIFNAME, unequal, []byte(anyTAP)) }

// oifname "tap-*"
func toTAP() []expr.Any { return meta(expr.MetaKeyOIFNAME, equal, []byte(anyTAP)) }

// oifname != "tap-*"
func notToTAP() []expr.Any { return meta(expr.MetaKeyOIFNAME, unequal, []byte(anyTAP)) }

// meta nfproto != ipv4
func notIPv4() []expr.Any { return meta(expr.MetaKeyNFPROTO, unequal, []byte{ipv4}) }

// meta nfproto ipv4 ip saddr [!=] p
func source(op expr.CmpOp, p netip.Prefix) []expr.Any { return ipAddress(atSource, op, p) }

// meta nfproto ipv4 ip daddr [!=] p
func target(op expr.CmpOp, p netip.Prefix) []expr.Any { return ipAddress(atTarget, op, p) }

// meta l4proto p
func protocol(p byte) []expr.Any { return meta(expr.MetaKeyL4PROTO, equal, []byte{p}) }

// icmp type [!=] kind
func icmpType(op expr.CmpOp, kind byte) []expr.Any {
	return join(protocol(icmp), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{kind}},
	})
}

// ct state any of bits
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		bitAnd(binaryutil.NativeEndian.PutUint32(bits)),
		&expr.Cmp{Op: unequal, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// ct direction reply
func isReply() []expr.Any {
	const reply = 1 // IP_CT_DIR_REPLY, linux/netfilter/nf_conntrack_tuple_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: equal, Register: 1, Data: []byte{reply}},
	}
}

// tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
func clampSegments() []expr.Any {
	return join(
		protocol(tcp),
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

// goto name
func goTo(name string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: name}}
}

func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

// The offsets of the addresses in the IPv4 header: RFC 791, 3.1.
const (
	atSource = 12
	atTarget = 16
)

// ipAddress compares the prefix of the address at offset in the IPv4 header.
func ipAddress(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	return join(
		meta(expr.MetaKeyNFPROTO, equal, []byte{ipv4}),
		[]expr.Any{
			loadAddress(offset, 1),
			bitAnd(net.CIDRMask(p.Bits(), 32)),
			&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
		})
}

func bitAnd(mask []byte) *expr.Bitwise { return bitAndIn(1, mask) }

func bitAndIn(register uint32, mask []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

// What loads a part of a key into a register.

// loadMeta loads into the first one.
func loadMeta(key expr.MetaKey) expr.Any {
	return &expr.Meta{Key: key, Register: first}
}

func loadAddress(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

func loadMark(register uint32) expr.Any { return &expr.Ct{Key: expr.CtKeyMARK, Register: register} }

func loadWord(n uint32, register uint32) expr.Any {
	return &expr.Immediate{Register: register, Data: []byte(word(n))}
}

// @set, with the key that begins in the first register
func in(set string) expr.Any { return &expr.Lookup{SourceRegister: first, SetName: set} }

// != @set
func notIn(set string) expr.Any {
	return &expr.Lookup{SourceRegister: first, SetName: set, Invert: true}
}

// map @set, into a register
func mapped(set string, to uint32) expr.Any {
	return &expr.Lookup{SourceRegister: first, SetName: set, DestRegister: to, IsDestRegSet: true}
}
