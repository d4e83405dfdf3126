package network

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// tableName is our table, of family inet, so that it sees IPv4 and IPv6.
const tableName = "wrenn"

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
)

// ruleset is the whole table. It does not depend on which sandboxes there are: TAPs are
// recognised by the beginning of their name.
func ruleset(subnet netip.Prefix) []chain {
	return []chain{
		{name: fromSandbox, rules: fromSandboxRules(subnet)},
		{name: toHost, rules: toHostRules()},
		{name: outbound, rules: outboundRules(subnet)},
		{name: inbound, rules: inboundRules()},
		// Before connection tracking, so that what is dropped here leaves no trace in its table.
		{"prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainTypeFilter, []rule{
			{"", join(fromTAP(), jump(fromSandbox))},
		}},
		{"input", nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, []rule{
			{"", join(fromTAP(), jump(toHost))},
		}},
		{"forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, []rule{
			{"", join(fromTAP(), jump(outbound))},
			{"", join(toTAP(), jump(inbound))},
		}},
		{"postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainTypeNAT, []rule{
			{"to the world as the host", join(source(equal, subnet), notToTAP(), masquerade())},
		}},
	}
}

// fromSandboxRules drop what no guest may send, wherever it goes.
func fromSandboxRules(subnet netip.Prefix) []rule {
	to := func(prefix string) []expr.Any { return target(equal, netip.MustParsePrefix(prefix)) }
	return []rule{
		{"no IPv6", join(notIPv4(), drop())},
		{"source outside the subnet", join(source(unequal, subnet), drop())},
		// The route back to the source must lead through the TAP that the packet came from; only the
		// sandbox's own address is behind it.
		{"source of another sandbox", join(noWayBack(), drop())},
		{"link-local, cloud metadata", join(to("169.254.0.0/16"), drop())},
		{"multicast, reserved, broadcast", join(to("224.0.0.0/3"), drop())},
		{"loopback", join(to("127.0.0.0/8"), drop())},
		{"this network", join(to("0.0.0.0/8"), drop())},
	}
}

// toHostRules are for what is addressed to the host: answers to the host, and a ping of the
// gateway, the first thing that people try when the network fails.
func toHostRules() []rule {
	return []rule{
		{"answers", join(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())},
		{"ping of the own gateway", join(echoRequest(), localOnInput(), accept())},
		{"the host", drop()},
	}
}

// outboundRules are for what the host forwards from a TAP.
func outboundRules(subnet netip.Prefix) []rule {
	return []rule{
		{"another sandbox's address", join(target(equal, subnet), drop())},
		{"another sandbox", join(toTAP(), drop())},
		{"segments that fit the way", clampSegments()},
		{"forgotten when the sandbox ends", join(state(expr.CtStateBitNEW), markWithSource())},
		{"", join(state(expr.CtStateBitNEW|expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())},
		// What connection tracking does not understand is not masqueraded either.
		{"invalid", drop()},
	}
}

// inboundRules are for what the host forwards to a TAP.
func inboundRules() []rule {
	return []rule{
		{"segments that fit the way", clampSegments()},
		{"answers", join(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())},
		{"from outside", drop()},
	}
}

// applyTable replaces the table in one transaction: at no moment is there none or half of one.
func (n *Network) applyTable() error {
	conn, err := n.nftables()
	if err != nil {
		return err
	}
	table := clearTable(conn)
	conn.AddTable(table)
	chains := ruleset(n.info.Subnet)
	for _, c := range chains {
		conn.AddChain(c.in(table))
	}
	for _, c := range chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c.in(table), Exprs: r.match, UserData: r.userData()})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set nftables table %s (the kernel needs nf_tables with nat, ct and fib): %w", tableName, err)
	}
	return nil
}

func (n *Network) removeTable() error {
	conn, err := n.nftables()
	if err != nil {
		return err
	}
	clearTable(conn)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", tableName, err)
	}
	return nil
}

// clearTable adds to conn's transaction that there be no table. Adding it first makes that
// succeed when there is none.
func clearTable(conn *nftables.Conn) *nftables.Table {
	table := conn.AddTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	conn.DelTable(table)
	return table
}

func (n *Network) nftables() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(n.ns.FD()), nftables.WithSockOptions(setDeadline))
}

func (c chain) in(table *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Name: c.name, Table: table, Hooknum: c.hook, Priority: c.priority, Type: c.kind}
}

func (r rule) userData() []byte {
	if r.comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}

// The protocols' numbers that the rules compare with.
const (
	ipv4     = unix.NFPROTO_IPV4
	icmp     = unix.IPPROTO_ICMP
	echo     = 8 // ICMP echo request: RFC 792
	tcp      = unix.IPPROTO_TCP
	tcpSYN   = 0x02 // flags of the TCP header: RFC 9293, 3.1
	tcpRST   = 0x04
	mssKind  = 2 // TCP option "maximum segment size": RFC 9293, 3.2
	rtnLocal = unix.RTN_LOCAL
)
