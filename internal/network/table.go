package network

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
)

// family is one of our tables: all of them are set in one transaction.
type family struct {
	of     nftables.TableFamily
	sets   []set
	chains []chain
}

func families(cfg Config, can abilities) []family {
	list := []family{{nftables.TableFamilyINet, inetSets(), ruleset(cfg, can.log)}}
	if can.arp {
		list = append(list, family{nftables.TableFamilyARP, arpSets(), arpChains()})
	}
	return list
}

func (f family) table() *nftables.Table { return &nftables.Table{Name: tableName, Family: f.of} }

// applyTable sets chains and rules in one transaction: at no moment is there none or half of one. What the sets hold
// stays, and so the policies of sandboxes that an earlier agent attached; a table of another layout goes as a whole, and
// sandboxes have no network until they are attached again.
func (n *Network) applyTable() error {
	conn, err := n.nftables()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	if err = n.setTable(conn, chains); err != nil { // somebody has changed the sets: as if of another layout
		err = n.setTable(conn, nil)
	}
	if err != nil {
		return fmt.Errorf("set nftables table %s (the kernel needs nf_tables with nat, ct, limit and connlimit): %w", tableName, err)
	}
	return nil
}

// setTable replaces what is of our tables in chains, all that there are.
func (n *Network) setTable(conn *nftables.Conn, chains []*nftables.Chain) error {
	for _, f := range families(n.cfg, n.can) {
		if err := f.apply(conn, chains); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// apply adds to conn's transaction all that makes the family's table.
func (f family) apply(conn *nftables.Conn, there []*nftables.Chain) error {
	table := conn.AddTable(f.table())
	if has(there, f, layout) {
		conn.FlushTable(table)
		for _, c := range there {
			if f.has(c) && !f.knows(c.Name) {
				conn.DelChain(c)
			}
		}
	} else {
		conn.DelTable(table)
		conn.AddTable(table)
	}
	for _, s := range f.sets {
		if err := conn.AddSet(s.in(table), nil); err != nil {
			return fmt.Errorf("define set %s: %w", s.name, err)
		}
	}
	for _, c := range f.chains {
		conn.AddChain(c.in(table))
	}
	for _, c := range f.chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c.in(table), Exprs: r.match, UserData: r.userData()})
		}
	}
	return nil
}

// has says whether c is a chain of the family's table.
func (f family) has(c *nftables.Chain) bool {
	return c.Table.Name == tableName && c.Table.Family == f.of
}

func (f family) knows(name string) bool {
	for _, c := range f.chains {
		if c.name == name {
			return true
		}
	}
	return false
}

func has(chains []*nftables.Chain, f family, name string) bool {
	for _, c := range chains {
		if f.has(c) && c.Name == name {
			return true
		}
	}
	return false
}

func (n *Network) removeTable() error {
	conn, err := n.nftables()
	if err != nil {
		return err
	}
	for _, f := range families(n.cfg, n.can) {
		table := conn.AddTable(f.table()) // so that deleting it succeeds when there is none
		conn.DelTable(table)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", tableName, err)
	}
	return nil
}

func (n *Network) nftables() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(n.ns.FD()), nftables.WithSockOptions(setDeadline, makeRoom))
}

// makeRoom gives a connection buffers for the whole table and for the kernel's answers, one for each rule.
func makeRoom(conn *mdnetlink.Conn) error {
	return errors.Join(conn.SetReadBuffer(buffer), conn.SetWriteBuffer(buffer))
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
