package dns

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// verdict is what a policy says of a name.
type verdict struct {
	allowed bool
	pinned  bool // a rule allows the name: the addresses it leads to are to be reached
	rule    Rule
	why     string
}

// judge holds a name, lower case and without its last dot, against a policy: allow beats deny, deny beats internet.
func judge(p models.NetworkPolicy, name string) verdict {
	matches := func(d models.Destination) bool { return d.MatchesName(name) }
	if slices.ContainsFunc(p.Allow, matches) {
		return verdict{allowed: true, pinned: true}
	}
	if i := slices.IndexFunc(p.Deny, matches); i >= 0 {
		return verdict{rule: NameDenied, why: fmt.Sprintf("the sandbox's network policy denies %s", p.Deny[i])}
	}
	if !p.Internet {
		return verdict{rule: NameUnlisted, why: "internet is off, and no rule of the sandbox's network policy allows the name"}
	}
	return verdict{allowed: true}
}

// Allows tells whether a rule of a policy allows a name: then the addresses that it leads to may be reached.
func Allows(p models.NetworkPolicy, name string) bool { return judge(p, name).pinned }

// reach is what a policy says of an address that a name leads to.
type reach int

const (
	never  reach = iota // no sandbox reaches it, or not this one
	byRule              // a rule of the policy allows it: it needs no pin
	public              // anybody's: whether it is reached depends on the policy
)

// reachOf says whether an answer may lead to addr.
func (f *Forwarder) reachOf(p models.NetworkPolicy, addr netip.Addr) reach {
	in := func(r models.Range) bool { return r.Contains(addr) }
	switch {
	case slices.ContainsFunc(models.AlwaysDenied, in), slices.ContainsFunc(f.cfg.Denied, func(d netip.Prefix) bool { return d.Contains(addr) }):
		return never
	case slices.ContainsFunc(p.Allow, func(d models.Destination) bool { return d.Prefix.IsValid() && d.Prefix.Contains(addr) }):
		return byRule
	case slices.ContainsFunc(models.PrivateRanges, in):
		return never
	}
	return public
}

// hidden tells whether name stands for an address whose name is none of the sandbox's business: the host's resolver may know
// names of an inner network. RFC 1035, 3.5.
func (f *Forwarder) hidden(p models.NetworkPolicy, name string) bool {
	digits, isIPv4 := strings.CutSuffix(name, ".in-addr.arpa")
	if nibbles, isIPv6 := strings.CutSuffix(name, ".ip6.arpa"); isIPv6 {
		addr, whole := fromNibbles(nibbles)
		return !p.IPv6 || !whole || f.reachOf(p, addr) == never
	}
	if !isIPv4 {
		return false
	}
	labels := strings.Split(digits, ".")
	slices.Reverse(labels)
	if len(labels) > 4 {
		return true
	}
	var b [4]byte
	for i, label := range labels {
		n, err := strconv.ParseUint(label, 10, 8)
		if err != nil {
			return true
		}
		b[i] = byte(n)
	}
	return f.reachOf(p, netip.AddrFrom4(b)) == never
}

// fromNibbles reads an IPv6 address from the labels of its name: RFC 3596, 2.5.
func fromNibbles(text string) (netip.Addr, bool) {
	labels := strings.Split(text, ".")
	slices.Reverse(labels)
	digits := strings.Join(labels, "")
	raw, err := hex.DecodeString(digits)
	if len(labels) != len(digits) || err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(raw)
	return addr, ok && addr.Is6()
}
