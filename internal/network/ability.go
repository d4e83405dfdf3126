package network

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// abilities are what not every kernel has, and what the network does without.
type abilities struct {
	log bool // nflog, for Refusals
	arp bool // tables of family arp
}

// host is what depends on the machine and its kernel. Tests put another one in its place.
type host struct {
	supports func(family) (bool, error)       // whether the kernel takes a table
	rename   func(netlink.Link, string) error // of a device that may be on: not before kernel 6.2
	share    func() (float64, error)          // how full the table of connections is
	knobs    func(func() error) error         // calls what reads and writes /proc/sys/net/ipv6
}

// realHost is the one that n is on.
func (n *Network) realHost() host {
	return host{supports: n.supports, rename: n.retire, share: n.connectionShare, knobs: func(f func() error) error { return n.ns.Do(f) }}
}

// probe finds out what the kernel can do, by a table that is made and deleted in one transaction.
func (n *Network) probe() (can abilities, warnings []string, err error) {
	can.arp, err = n.host.supports(family{of: nftables.TableFamilyARP, chains: []chain{arpChains()[1]}, sets: arpSets()})
	if err != nil {
		return can, nil, err
	}
	can.log, err = n.host.supports(family{of: nftables.TableFamilyINet, chains: []chain{{name: "log", rules: []rule{{"", []expr.Any{logTo("probe")}}}}}})
	if !can.log {
		warnings = append(warnings, "the kernel cannot tell which packets were refused; load the module nfnetlink_log")
	}
	if !can.arp {
		warnings = append(warnings, "the kernel cannot filter ARP, so that guests may claim other addresses of the host's devices; load the modules nf_tables and nf_tables_arp")
	}
	return can, warnings, err
}

// supports says whether the kernel takes a table; it is not kept.
func (n *Network) supports(f family) (bool, error) {
	conn, err := n.nftables()
	if err != nil {
		return false, err
	}
	table := conn.AddTable(&nftables.Table{Name: tableName + "_probe", Family: f.of})
	for _, s := range f.sets {
		if err := conn.AddSet(s.in(table), nil); err != nil {
			return false, err
		}
	}
	for _, c := range f.chains {
		conn.AddChain(c.in(table))
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c.in(table), Exprs: r.match})
		}
	}
	conn.DelTable(table)
	err = conn.Flush()
	if errors.Is(err, unix.EPERM) {
		return false, fmt.Errorf("change nftables: %w", err)
	}
	return err == nil, nil
}
