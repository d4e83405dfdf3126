package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxPins is how many addresses a sandbox may have pinned at the same time.
const maxPins = 4096

// maxPinTime bounds what an answer may ask for.
const maxPinTime = 24 * time.Hour

// Pinned is an address that a sandbox may reach because a name leads to it.
type Pinned struct {
	Name  string
	Addr  netip.Addr
	Until time.Time
}

// Pin lets a sandbox reach addrs for ttl: they are the answers to a name that its policy allows. Connections that begin
// meanwhile go on afterwards. Private addresses are left out: a name cannot allow what no rule by address does; and so is IPv6, where the
// sandbox has none. The policy must have Names. When it returns, the guest may be told.
//
// The kernel remembers the name with the address, for the next process: see Pins.
//
// Errors: NotFound for a sandbox that is not attached, Precondition for a policy without names, Exhausted for too many.
func (n *Network) Pin(ctx context.Context, sandbox id.Sandbox, name string, addrs []netip.Addr, ttl time.Duration) error {
	one, end, err := n.beginAttached(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	if !one.policy.Names {
		return models.Errorf(models.Precondition, "the network policy of sandbox %s has no rules by name", sandbox)
	}
	mark := n.held.mark(one.device)
	var list []element
	for _, addr := range addrs {
		if one.policy.pinnable(addr) {
			list = append(list, pinElement(mark, name, addr, ttl))
		}
	}
	if err := n.held.pin(one.device, list); err != nil {
		return fmt.Errorf("pin addresses for %s: %w", sandbox, err)
	}
	return nil
}

// Pins are the addresses that are pinned for a sandbox, also by an earlier process and before it is attached again. Where several names led to one,
// that which does so for longest is told.
func (n *Network) Pins(ctx context.Context, sandbox id.Sandbox) ([]Pinned, error) {
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	defer end()
	index, err := n.ifindex(TAPName(sandbox))
	if err != nil || index == 0 {
		return nil, err
	}
	return n.held.pinned(uint32(index)), nil
}

// pinnable says whether a name can let an address in under the policy.
func (p Policy) pinnable(addr netip.Addr) bool {
	private := PrivateRanges
	if !addr.Is4() {
		private = PrivateRangesIPv6
		if !p.IPv6 || !global.Contains(addr) { // addresses of IPv4 in the form of IPv6 among them
			return false
		}
	}
	return !slices.ContainsFunc(private, func(r netip.Prefix) bool { return r.Contains(addr) })
}

// pinElements are pins under a new mark, one for each address: of several names that lead to it, the one that lasts.
func (p Policy) pinElements(mark uint32, list []Pinned) (elements []element) {
	last := map[netip.Addr]Pinned{}
	for _, one := range list {
		if p.Names && p.pinnable(one.Addr) && one.Until.After(last[one.Addr].Until) && (len(last) < maxPins || last[one.Addr].Name != "") {
			last[one.Addr] = one
		}
	}
	for addr, one := range last {
		if ttl := time.Until(one.Until); ttl > 0 {
			elements = append(elements, pinElement(mark, one.Name, addr, ttl))
		}
	}
	sortBySet(elements)
	return elements
}

func pinElement(mark uint32, name string, addr netip.Addr, ttl time.Duration) element {
	set := pins
	if addr.Is6() {
		set = pinsIPv6
	}
	return element{slotOf{set, word(mark) + ip(addr)}, content{ttl: min(max(ttl, time.Second), maxPinTime), name: name}}
}
