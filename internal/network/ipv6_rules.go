package network

import (
	"net/netip"

	"github.com/google/nftables/expr"
)

// The chains of IPv6 that are jumped to: what the chains of these names without the suffix do for IPv4.
const (
	fromSandboxIPv6 = "from_sandbox_ipv6"
	outboundIPv6    = "outbound_ipv6"
	answersIPv6     = "answers_ipv6"
	ownRulesIPv6    = "own_rules_ipv6"
)

// What IPv6 addresses are: IANA's registries of the address space and of special-purpose addresses.
var (
	// PrivateRangesIPv6 are reached only by what a policy allows by address. RFC 4193 and 6890.
	PrivateRangesIPv6 = []netip.Prefix{uniqueLocal, netip.MustParsePrefix("2001::/23")}

	uniqueLocal = netip.MustParsePrefix("fc00::/7")
	global      = netip.MustParsePrefix("2000::/3")

	// nearby are link-local addresses, and what clouds have for metadata (AWS, Google Cloud).
	nearby = []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32")}
	// unspecified is an address that the kernel takes packets for; for ::1 it takes none by a device.
	unspecified = netip.MustParsePrefix("::/128")
	// embedded are ways to IPv4, whose rules they would get round: compatible and mapped addresses, NAT64 (RFC 6052, 8215); Teredo; 6to4.
	embedded = []netip.Prefix{netip.MustParsePrefix("::/8"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16")}

	// reports is the group that hears of the groups that a guest's kernel joins, its own address's among them: RFC 3810.
	reports = netip.MustParsePrefix("ff02::16/128")
	// solicited are the groups in which neighbours are asked for: RFC 4291, 2.7.1.
	solicited = netip.MustParsePrefix("ff02::1:ff00:0/104")
)

// fromSandboxIPv6Rules drop what no guest may send by IPv6, wherever it goes. All that a guest needs to say to its neighbour, the
// host, is where its gateway is: where the guest is, the host has been told (ipv6_link.go).
func fromSandboxIPv6Rules(total Limits) []rule {
	rules := []rule{
		{"", join(withoutIPv6(), refuse(ruleIPv6))},
		{"nobody hears of the groups that its kernel joins", join(targetIPv6(equal, reports), drop())},
		{"not the sandbox's own", join(spoofedIPv6(), refuse(ruleSpoofed))},
		{"too many questions", join(asksForGateway(), exceeded(limitNeighbours), drop())},
		{"where its gateway is", join(asksForGateway(), targetIPv6(equal, solicited), accept())},
		{"the same", join(asksForGateway(), toGatewayIPv6(atTargetIPv6), accept())},
		{"", join(targetIPv6(equal, unspecified), refuse(ruleThisNetwork))},
	}
	for _, prefix := range nearby {
		rules = append(rules, rule{"link-local, cloud metadata", join(targetIPv6(equal, prefix), refuse(ruleLinkLocal))})
	}
	for _, prefix := range embedded {
		rules = append(rules, rule{"a way to IPv4", join(targetIPv6(equal, prefix), refuse(ruleEmbedded))})
	}
	rules = append(rules, rule{"multicast, reserved", join(targetIPv6(unequal, global), targetIPv6(unequal, uniqueLocal), refuse(ruleMulticast))})
	rules = append(rules, headerRules()...)
	return append(rules, volumeRules(total)...)
}

// headerRules let one header follow that of IPv6: TCP, UDP, a ping or an error, or a fragment of one of them. So nothing is read out of
// a packet that lies elsewhere than the rules believe.
func headerRules() (rules []rule) {
	for _, header := range []byte{hopByHop, routing, destOptions} {
		rules = append(rules, rule{"", join(byteAt(atNextHeader, equal, header), refuse(ruleOptions))})
	}
	return append(rules,
		rule{"neither TCP nor UDP nor ICMP", join(noneOf(atNextHeader, tcp, udp, icmpv6, fragmented), refuse(ruleProtocol))},
		rule{"neither a ping nor an error", join(byteAt(atNextHeader, equal, icmpv6),
			noneOf(behindHeader, echoIPv6, echoReplyIPv6, unreachable, tooBig, timeExceeded, badParameter), refuse(ruleProtocol))},
		rule{"a fragment of something else", join(byteAt(atNextHeader, equal, fragmented), noneOf(behindHeader, tcp, udp, icmpv6), refuse(ruleProtocol))},
		rule{"", join(byteAt(atNextHeader, equal, fragmented), exceeded(limitFragments), refuse(ruleFragments))})
}

// outboundIPv6Rules are for what the host forwards from a TAP by IPv6.
func outboundIPv6Rules(subnet netip.Prefix) []rule {
	rules := []rule{
		{"where a sandbox could be", join(targetIPv6(equal, subnet), refuse(ruleSandbox))},
		{"", join(toTAP(), refuse(ruleSandbox))},
		// Of neighbours' messages connection tracking keeps out, also of those that were in fragments.
		{"what connection tracking does not understand, or does not look at", join(state(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), refuse(ruleInvalid))},
		{"segments that fit the way", clampSegments()},
		{"let pass before, under the present policy", join(markIsCurrent(leaving), accept())},
		{"", setPolicyMark(leaving)},
		{"", join(isIPv4Policy(), refuse(ruleIPv6))},
	}
	rules = append(rules, otherNameServers(leaving, refuse(ruleNames))...)
	rules = append(rules, rule{"", join(flagged(flagOwnRules), jump(leaving.chain(ownRulesIPv6)))})
	for _, private := range PrivateRangesIPv6 {
		rules = append(rules, rule{"", join(targetIPv6(equal, private), refuse(rulePrivate))})
	}
	return append(rules,
		rule{"", join(flagged(flagInternet), goTo(admit))},
		rule{"", refuse(ruleInternet)})
}

// answersIPv6Rules are for what arrives by IPv6 on a connection that an earlier policy of the sandbox let pass.
func answersIPv6Rules() []rule {
	rules := []rule{{"", setPolicyMark(arriving)}, {"no IPv6 any more", join(isIPv4Policy(), drop())}}
	rules = append(rules, otherNameServers(arriving, drop())...)
	rules = append(rules, rule{"", join(flagged(flagOwnRules), jump(arriving.chain(ownRulesIPv6)))})
	for _, private := range PrivateRangesIPv6 {
		rules = append(rules, rule{"", join(sourceIPv6(private), drop())})
	}
	return append(rules,
		rule{"", join(flagged(flagInternet), goTo(passOn))},
		rule{"no policy lets it pass", drop()})
}

// ownIPv6RulesOf are a policy's rules by IPv6 address: what it allows, also by name, then what it denies.
func ownIPv6RulesOf(d direction) []rule {
	pass, deny := goTo(admit), refuse(ruleDenied)
	if d == arriving {
		pass, deny = goTo(passOn), drop()
	}
	var rules []rule
	for length := 8 * addressLength; length >= 0; length -= prefixStep {
		rules = append(rules, rule{"", join(inIPv6Network(d, allowedIPv6, length), pass)})
	}
	rules = append(rules, rule{"by name", join(pinnedIPv6(d), pass)})
	for length := 8 * addressLength; length >= 0; length -= prefixStep {
		rules = append(rules, rule{"", join(inIPv6Network(d, deniedIPv6, length), deny)})
	}
	return rules
}
