package network

import (
	"math/bits"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// direction says in which registers and fields a rule finds the sandbox's device and the other side.
type direction struct {
	suffix string
	device expr.MetaKey
	remote uint32 // offset of the other side's address in the IPv4 header
	ipv6   uint32 // the same in the IPv6 header
	port   uint32 // offset of its port in the headers of TCP and UDP
}

var (
	leaving  = direction{"_leaving", expr.MetaKeyIIF, atTarget, atTargetIPv6, 2}
	arriving = direction{"_arriving", expr.MetaKeyOIF, atSource, atSourceIPv6, 0}
)

// chain is the name of a chain that there is for each direction.
func (d direction) chain(name string) string { return name + d.suffix }

// The kinds of limits that a sandbox has, in the keys of the set limits.
const (
	limitPackets uint32 = iota
	limitConnections
	limitNames
	limitFragments
	limitUpload
	limitDownload
	limitSamples
	limitNeighbours
)

// What a policy says, in the data of the map flags. The class of the connection limit is in the bits from classShift.
const (
	flagInternet uint32 = 1 << iota
	flagOwnRules
	flagNames
	flagIPv6

	classShift = 8
	classMask  = 0xff << classShift
)

// iif . ether saddr . ip saddr != @guests
func spoofed() []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyIIF),
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}, // IEEE 802.3: the source
		loadAddress(atSource, fourth),
		notIn(guests),
	}
}

// ip hdrlength != 5
func hasOptions() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 0, Len: 1},
		bitAnd([]byte{0x0f}),
		&expr.Cmp{Op: unequal, Register: 1, Data: []byte{5}},
	}
}

// ip frag-off & 0x3fff != 0: more follow, or some came before
func fragment() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2},
		bitAnd([]byte{0x3f, 0xff}),
		&expr.Cmp{Op: unequal, Register: 1, Data: []byte{0, 0}},
	}
}

// meta l4proto != tcp meta l4proto != udp meta l4proto != icmp
func otherProtocol() []expr.Any {
	return join(
		meta(expr.MetaKeyL4PROTO, unequal, []byte{tcp}),
		meta(expr.MetaKeyL4PROTO, unequal, []byte{udp}),
		meta(expr.MetaKeyL4PROTO, unequal, []byte{icmp}))
}

// iif . kind @limits
func exceeded(kind uint32) []expr.Any { return exceededBy(leaving, kind) }

func exceededBy(d direction, kind uint32) []expr.Any {
	return []expr.Any{loadMeta(d.device), loadWord(kind, second), in(limits)}
}

// limit rate over l
func over(l limit) []expr.Any { return []expr.Any{l.expression()} }

// meta nfproto ipv4 iif . ip daddr @gateways
func toGateway() []expr.Any {
	return join(
		meta(expr.MetaKeyNFPROTO, equal, []byte{ipv4}),
		[]expr.Any{loadMeta(expr.MetaKeyIIF), loadAddress(atTarget, second), in(gateways)})
}

// meta l4proto . th dport @dns
func toNameServer() []expr.Any {
	return []expr.Any{loadMeta(expr.MetaKeyL4PROTO), loadTargetPort(second), in(dnsSockets)}
}

func loadTargetPort(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: leaving.port, Len: 2}
}

// ct status dnat
func redirected() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		bitAnd(binaryutil.NativeEndian.PutUint32(dnat)),
		&expr.Cmp{Op: unequal, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// iif . ip daddr @gateways th dport 53 redirect to :meta l4proto map @dns_ports
func redirectNames() []expr.Any {
	return join(fromTAP(), toGateway(), []expr.Any{
		loadTargetPort(1),
		&expr.Cmp{Op: equal, Register: 1, Data: binaryutil.BigEndian.PutUint16(dnsPort)},
		loadMeta(expr.MetaKeyL4PROTO), mapped(dnsPorts, second),
		&expr.Redir{RegisterProtoMin: second, RegisterProtoMax: second, Flags: expr.NF_NAT_RANGE_PROTO_SPECIFIED},
	})
}

// meta mark map @policy_flags & flagNames != 0 meta l4proto p th [sd]port n
func otherNameServer(d direction, p byte, n uint16) []expr.Any {
	return join(flagged(flagNames), protocol(p), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: d.port, Len: 2},
		&expr.Cmp{Op: equal, Register: 1, Data: binaryutil.BigEndian.PutUint16(n)},
	})
}

// otherNameServers are for the ports of name servers, where a policy has rules by name: RFC 1035, 7858, 9250.
func otherNameServers(d direction, refuse []expr.Any) (list []rule) {
	for _, p := range []byte{tcp, udp} {
		for _, n := range []uint16{dnsPort, dnsOverTLSPort} {
			list = append(list, rule{"other name servers", join(otherNameServer(d, p, n), refuse)})
		}
	}
	return list
}

// iif . ct mark @current
func markIsCurrent(d direction) []expr.Any {
	return []expr.Any{loadMeta(d.device), loadMark(second), in(current)}
}

// ct mark & 0x80000000 != 0
func markIsOurs() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		bitAnd([]byte(word(markOurs))),
		&expr.Cmp{Op: unequal, Register: 1, Data: []byte(word(0))},
	}
}

// meta mark map @policy_flags & flag != 0
func flagged(flag uint32) []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyMARK), mapped(flags, second),
		bitAndIn(second, []byte(word(flag))),
		&expr.Cmp{Op: unequal, Register: second, Data: []byte(word(0))},
	}
}

// setPolicyMark gives the packet the mark of its sandbox's present policy, by which alone the rules after it find what that
// says. They must not ask for it again: the kernel applies a transaction to each lookup, not to each packet, so that a packet
// in the middle of a change would be judged half by one policy and half by the other. Of the policy that it began with it
// finds all, or, when that is gone, nothing, and is refused.
//
// meta mark set iif map @marks
func setPolicyMark(d direction) []expr.Any {
	return []expr.Any{
		loadMeta(d.device), mapped(marks, first),
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: first},
	}
}

// passOnRules let a packet pass without the mark, which was ours.
func passOnRules() []rule {
	return []rule{
		{"", []expr.Any{loadWord(0, first), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: first}}},
		{"", accept()},
	}
}

// prefixStep is the distance of the lengths of networks that the sets hold: a /22 is held as four /24, so that
// few questions find whether an address is in one, each for the first bytes of the address.
const prefixStep = 8

// ownRulesOf are a policy's rules by address: what it allows, also by name, then what it denies.
func ownRulesOf(d direction) []rule {
	pass, deny := goTo(admit), refuse(ruleDenied)
	if d == arriving {
		pass, deny = goTo(passOn), drop()
	}
	var rules []rule
	for length := 32; length >= 0; length -= prefixStep {
		rules = append(rules, rule{"", join(inNetwork(d, allowed, length), pass)})
	}
	rules = append(rules, rule{"by name", join(pinned(d), pass)})
	for length := 32; length >= 0; length -= prefixStep {
		rules = append(rules, rule{"", join(inNetwork(d, denied, length), deny)})
	}
	return rules
}

// meta mark . ip daddr, its first bytes . length @set
func inNetwork(d direction, set string, length int) []expr.Any {
	bytes := expr.Any(&expr.Payload{DestRegister: second, Base: expr.PayloadBaseNetworkHeader, Offset: d.remote, Len: uint32(length / 8)})
	if length == 0 {
		bytes = loadWord(0, second)
	}
	return []expr.Any{loadMeta(expr.MetaKeyMARK), bytes, loadWord(uint32(length), third), in(set)}
}

// meta mark . ip daddr @pins
func pinned(d direction) []expr.Any {
	return []expr.Any{loadMeta(expr.MetaKeyMARK), loadAddress(d.remote, second), in(pins)}
}

// The classes of connection limits: a class is the logarithm of the number of connections. They are counted in a
// set of each class, whose entries the kernel makes and forgets by itself.
const (
	minClass = 4
	maxClass = 16
)

func connectionSet(class int) string { return "connections_" + strconv.Itoa(1<<class) }

// connectionClass is the smallest class that holds n connections.
func connectionClass(n uint32) int {
	return min(max(bits.Len32(max(n, 1)-1), minClass), maxClass)
}

// pressureClass is the limit of every sandbox while the host's table of connections is almost full. Connections are counted
// by it at all times: the kernel counts only those that it was asked about.
const pressureClass = 6

// admitRules let pass what the policy allows, as long as there are not too many connections.
func admitRules(total Limits) []rule {
	isNew := state(expr.CtStateBitNEW)
	rules := []rule{
		{"no connection by ICMP but a ping", join(isNew, icmpType(unequal, echo), refuse(ruleProtocol))},
		{"the same", join(isNew, pingIPv6(unequal), refuse(ruleProtocol))},
		{"", join(isNew, exceeded(limitConnections), refuse(ruleConnections))},
	}
	if total.NewConnections > 0 {
		rules = append(rules, rule{"all sandboxes", join(isNew, over(limit{rate: uint64(total.NewConnections)}), refuse(ruleConnections))})
	}
	for class := minClass; class <= maxClass; class++ {
		rules = append(rules, rule{"", join(isNew, hasClass(class), tooMany(class), refuse(ruleConnections))})
		if class > pressureClass { // the others have no more anyway, and the kernel would count twice what it is asked about twice
			pressed := []expr.Any{loadMeta(expr.MetaKeyNFPROTO), in(pressure)}
			rules = append(rules, rule{"the host has few left", join(isNew, hasClass(class), tooMany(pressureClass), pressed, refuse(ruleConnections))})
		}
	}
	return append(rules,
		rule{"", []expr.Any{loadMeta(expr.MetaKeyMARK), &expr.Ct{Key: expr.CtKeyMARK, Register: first, SourceRegister: true}}},
		rule{"", goTo(passOn)})
}

// meta mark map @policy_flags & 0xff00 == class << 8
func hasClass(class int) []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyMARK), mapped(flags, second),
		bitAndIn(second, []byte(word(classMask))),
		&expr.Cmp{Op: equal, Register: second, Data: []byte(word(uint32(class) << classShift))},
	}
}

// add @connections_n { iif ct count over n }
func tooMany(class int) []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyIIF),
		&expr.Dynset{SrcRegKey: first, SetName: connectionSet(class), Operation: uint32(unix.NFT_DYNSET_OP_ADD), Exprs: []expr.Any{
			&expr.Connlimit{Count: 1 << class, Flags: expr.NFT_CONNLIMIT_F_INV},
		}},
	}
}

// arpInput is NF_ARP_IN: linux/netfilter_arp.h.
var arpInput = nftables.ChainHookRef(0)

// arpPerSecond is how many ARP messages a guest may send.
const arpPerSecond = 100

// arpChains refuse every ARP message that is not a guest's own, about its gateway: RFC 826.
func arpChains() []chain {
	at := func(offset, length, register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
	}
	return []chain{{name: layout}, {"input", arpInput, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, []rule{
		{"", join(fromTAP(), []expr.Any{loadMeta(expr.MetaKeyIIF), &expr.Dynset{
			SrcRegKey: first, SetName: arpRate, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: time.Minute,
			Exprs: []expr.Any{limit{rate: arpPerSecond}.expression()},
		}}, drop())},
		{"", join(fromTAP(), []expr.Any{
			loadMeta(expr.MetaKeyIIF), at(8, 6, second), at(14, 4, fourth), at(24, 4, fifth), in(arpGuests),
		}, accept())},
		{"not the sandbox's own, or not about its gateway", join(fromTAP(), drop())},
	}}}
}
