package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of our tables: one of family inet, which sees IPv4 and IPv6, and one of family arp.
const tableName = "wrenn"

// layout is the name of a chain without rules that says which sets the table has. A table of another layout is replaced as
// a whole; one of this layout keeps its sets. Count it up whenever the definition of a set changes.
const layout = "layout_1"

// rule is a rule with the comment that `nft list table inet wrenn` shows.
type rule struct {
	comment string
	match   []expr.Any
}

// chain is a chain of our table; without a hook it is one that another chain jumps to.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	kind     nftables.ChainType
	rules    []rule
}

// The names of the chains that are jumped to.
const (
	fromSandbox = "from_sandbox"
	toHost      = "to_host"
	outbound    = "outbound"
	inbound     = "inbound"
	admit       = "admit"
	ownRules    = "own_rules"
	answers     = "answers"
	passOn      = "pass_on"
)

// beforeDefrag is a priority before the kernel puts fragments together (-400), so that a guest's fragments cannot
// get among another's: NF_IP_PRI_RAW_BEFORE_DEFRAG, linux/netfilter_ipv4.h.
var beforeDefrag = nftables.ChainPriorityRef(-450)

// ruleset is the table of family inet without what is in its sets. It does not depend on which sandboxes there are.
func ruleset(cfg Config, tell bool) []chain {
	list := refuseChains(tell)
	for _, direction := range []direction{leaving, arriving} {
		list = append(list,
			chain{name: direction.chain(ownRules), rules: ownRulesOf(direction)},
			chain{name: direction.chain(ownRulesIPv6), rules: ownIPv6RulesOf(direction)})
	}
	return append(list,
		chain{name: layout},
		chain{name: passOn, rules: passOnRules()},
		chain{name: fromSandbox, rules: fromSandboxRules(cfg.Total)},
		chain{name: toHost, rules: toHostRules()},
		chain{name: admit, rules: admitRules(cfg.Total)},
		chain{name: outbound, rules: outboundRules(cfg.Subnet)},
		chain{name: answers, rules: answersRules()},
		chain{name: inbound, rules: inboundRules(cfg.Total)},
		chain{name: fromSandboxIPv6, rules: fromSandboxIPv6Rules(cfg.Total)},
		chain{name: outboundIPv6, rules: outboundIPv6Rules(cfg.SubnetIPv6)},
		chain{name: answersIPv6, rules: answersIPv6Rules()},
		chain{"prerouting", nftables.ChainHookPrerouting, beforeDefrag, nftables.ChainTypeFilter, []rule{
			{"", join(fromTAP(), jump(fromSandbox))},
		}},
		chain{"input", nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, []rule{
			{"", join(fromTAP(), jump(toHost))},
			{"the name server is the guests' alone", join(notFromTAP(), toNameServer(), drop())},
		}},
		chain{"forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, []rule{
			{"", join(fromTAP(), jump(outbound))},
			{"", join(toTAP(), jump(inbound))},
		}},
		chain{"names", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, nftables.ChainTypeNAT, []rule{
			{"the gateway answers for names", redirectNames()},
		}},
		chain{"postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainTypeNAT, []rule{
			{"to the world as the host", join(source(equal, cfg.Subnet), notToTAP(), masquerade())},
			{"to the world as the host", join(sourceIPv6(cfg.SubnetIPv6), notToTAP(), masquerade())},
		}},
	)
}

// fromSandboxRules drop what no guest may send, wherever it goes.
func fromSandboxRules(total Limits) []rule {
	to := func(prefix string) []expr.Any { return target(equal, netip.MustParsePrefix(prefix)) }
	return append([]rule{
		{"", join(exceeded(limitPackets), refuse(rulePackets))},
		{"", join(notIPv4(), goTo(fromSandboxIPv6))},
		{"not the sandbox's own", join(spoofed(), refuse(ruleSpoofed))},
		{"", join(hasOptions(), refuse(ruleOptions))},
		{"link-local, cloud metadata", join(to("169.254.0.0/16"), refuse(ruleLinkLocal))},
		{"multicast, reserved, broadcast", join(to("224.0.0.0/3"), refuse(ruleMulticast))},
		{"", join(to("127.0.0.0/8"), refuse(ruleLoopback))},
		{"", join(to("0.0.0.0/8"), refuse(ruleThisNetwork))},
		{"neither TCP nor UDP nor ICMP", join(otherProtocol(), refuse(ruleProtocol))},
		{"", join(fragment(), exceeded(limitFragments), refuse(ruleFragments))},
	}, volumeRules(total)...)
}

// volumeRules drop what is too much, whatever it is.
func volumeRules(total Limits) []rule {
	rules := []rule{{"", join(exceeded(limitUpload), refuse(ruleBandwidth))}}
	if total.Packets > 0 {
		rules = append(rules, rule{"all sandboxes", join(over(limit{rate: total.Packets}), refuse(rulePackets))})
	}
	if total.UploadBytes > 0 {
		rules = append(rules, rule{"all sandboxes", join(over(limit{rate: total.UploadBytes, bytes: true}), refuse(ruleBandwidth))})
	}
	return rules
}

// toHostRules are for what is addressed to the host: answers to the host, questions for names, and a ping of the
// gateway, the first thing that people try when the network fails.
func toHostRules() []rule {
	return []rule{
		{"answers", join(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), isReply(), accept())},
		{"a neighbour's question for the own gateway", join(asksForGateway(), accept())},
		{"", join(toNameServer(), exceeded(limitNames), refuse(ruleNames))},
		{"", setPolicyMark(leaving)},
		{"", join(redirected(), toNameServer(), jump(admit))},
		{"ping of the own gateway", join(icmpType(equal, echo), toGateway(), jump(admit))},
		{"the same", join(pingIPv6(equal), toGatewayIPv6(atTargetIPv6), jump(admit))},
		{"", refuse(ruleHost)},
	}
}

// outboundRules are for what the host forwards from a TAP.
func outboundRules(subnet netip.Prefix) []rule {
	rules := []rule{
		{"", join(notIPv4(), goTo(outboundIPv6))},
		{"where a sandbox could be", join(target(equal, subnet), refuse(ruleSandbox))},
		{"", join(toTAP(), refuse(ruleSandbox))},
		{"what connection tracking does not understand is not masqueraded either", join(state(expr.CtStateBitINVALID), refuse(ruleInvalid))},
		{"", join(icmpType(equal, icmpRedirect), refuse(ruleProtocol))},
		{"segments that fit the way", clampSegments()},
		{"let pass before, under the present policy", join(markIsCurrent(leaving), accept())},
		{"", setPolicyMark(leaving)},
	}
	rules = append(rules, otherNameServers(leaving, refuse(ruleNames))...)
	rules = append(rules, rule{"", join(flagged(flagOwnRules), jump(leaving.chain(ownRules)))})
	for _, private := range PrivateRanges {
		rules = append(rules, rule{"", join(target(equal, private), refuse(rulePrivate))})
	}
	return append(rules,
		rule{"", join(flagged(flagInternet), goTo(admit))},
		rule{"", refuse(ruleInternet)})
}

// answersRules are for what arrives on a connection that an earlier policy of the sandbox let pass: it passes if the
// present one would have let it, too.
func answersRules() []rule {
	rules := []rule{{"", join(notIPv4(), goTo(answersIPv6))}, {"", setPolicyMark(arriving)}}
	rules = append(rules, otherNameServers(arriving, drop())...)
	rules = append(rules, rule{"", join(flagged(flagOwnRules), jump(arriving.chain(ownRules)))})
	for _, private := range PrivateRanges {
		rules = append(rules, rule{"", join(source(equal, private), drop())})
	}
	return append(rules,
		rule{"", join(flagged(flagInternet), goTo(passOn))},
		rule{"no policy lets it pass", drop()})
}

// inboundRules are for what the host forwards to a TAP.
func inboundRules(total Limits) []rule {
	rules := []rule{
		{"too many bytes", join(exceededBy(arriving, limitDownload), drop())},
		{"segments that fit the way", clampSegments()},
		{"", join(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), markIsCurrent(arriving), accept())},
		{"", join(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), markIsOurs(), jump(answers))},
		{"from outside", drop()},
	}
	if total.DownloadBytes > 0 {
		rules = append([]rule{{"all sandboxes", join(over(limit{rate: total.DownloadBytes, bytes: true}), drop())}}, rules...)
	}
	return rules
}

// The numbers that the rules compare with.
const (
	ipv4         = unix.NFPROTO_IPV4
	ipv6         = unix.NFPROTO_IPV6
	icmp         = unix.IPPROTO_ICMP
	tcp          = unix.IPPROTO_TCP
	udp          = unix.IPPROTO_UDP
	echo         = 8    // ICMP echo request: RFC 792
	icmpRedirect = 5    // RFC 792
	tcpSYN       = 0x02 // flags of the TCP header: RFC 9293, 3.1
	tcpRST       = 0x04
	mssKind      = 2 // TCP option "maximum segment size": RFC 9293, 3.2
)

// PrivateRanges are reached only by what a policy allows by address. RFC 1918, 6598, 2544, 6890, 7526.
var PrivateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
}
