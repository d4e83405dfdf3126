package network

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// attachment is a sandbox that is attached.
type attachment struct {
	sandbox id.Sandbox
	slot    Slot
	device  uint32
	policy  Policy // as the host grants it
	// withoutIPv6 is why there is no IPv6, though the policy asks for it.
	withoutIPv6 string
}

// attachments finds sandboxes by all that is known of them in packets.
type attachments struct {
	mu        sync.RWMutex
	bySandbox map[id.Sandbox]attachment
	byGuest   map[netip.Addr]id.Sandbox
	byDevice  map[uint32]id.Sandbox
}

func (a *attachments) put(one attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bySandbox[one.sandbox] = one
	a.byGuest[one.slot.Guest.Addr()] = one.sandbox
	a.byDevice[one.device] = one.sandbox
}

func (a *attachments) remove(sandbox id.Sandbox) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one, ok := a.bySandbox[sandbox]
	if !ok {
		return
	}
	delete(a.bySandbox, sandbox)
	delete(a.byDevice, one.device)
	if a.byGuest[one.slot.Guest.Addr()] == sandbox {
		delete(a.byGuest, one.slot.Guest.Addr())
	}
}

func (a *attachments) of(sandbox id.Sandbox) (attachment, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	one, ok := a.bySandbox[sandbox]
	if !ok {
		return one, models.Errorf(models.NotFound, "sandbox %s has no network on this host", sandbox)
	}
	return one, nil
}

func (a *attachments) on(device uint32) (id.Sandbox, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	sandbox, ok := a.byDevice[device]
	return sandbox, ok
}

// SandboxAt says whose guest address addr is.
func (n *Network) SandboxAt(addr netip.Addr) (id.Sandbox, bool) {
	n.attached.mu.RLock()
	defer n.attached.mu.RUnlock()
	sandbox, ok := n.attached.byGuest[addr]
	return sandbox, ok
}

// beginAttached is beginFor of a sandbox that is attached.
func (n *Network) beginAttached(ctx context.Context, sandbox id.Sandbox) (one attachment, end func(), err error) {
	end, err = n.beginFor(ctx, sandbox)
	if err != nil {
		return one, nil, err
	}
	if one, err = n.attached.of(sandbox); err != nil {
		end()
		return one, nil, err
	}
	return one, end, nil
}

// SetPolicy replaces the policy of an attached sandbox in one transaction. From then on no packet passes that it does not
// allow, also none of connections that were open: those that it allows go on, the others end. What is pinned afterwards is pins and nothing
// else: the caller gives those of names that are still allowed.
//
// Errors: Invalid for a policy that cannot be, NotFound for a sandbox that is not attached; then the old policy holds.
func (n *Network) SetPolicy(ctx context.Context, sandbox id.Sandbox, p Policy, pins ...Pinned) error {
	if err := p.check(); err != nil {
		return err
	}
	one, end, err := n.beginAttached(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	before := one.policy
	if one.policy, one.withoutIPv6, err = n.granted(ctx, p); err != nil {
		return err
	}
	if err := n.change(one, before, pins); err != nil {
		return fmt.Errorf("set the policy of %s: %w", sandbox, err)
	}
	n.attached.put(one)
	return nil
}

// change puts a policy in the place of another. An address for IPv6 comes before the policy that needs it, and goes after it.
func (n *Network) change(one attachment, before Policy, pins []Pinned) error {
	if one.policy.IPv6 && !before.IPv6 {
		if err := n.openIPv6(one.sandbox, one.device, one.slot); err != nil {
			return err
		}
	}
	mark := nextMark(n.held.mark(one.device), one.slot)
	if err := n.held.replace(one.device, n.elements(one, mark), one.policy.pinElements(mark, pins)); err != nil {
		return err
	}
	if before.IPv6 && !one.policy.IPv6 {
		link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(one.device)}}
		if err := n.closeIPv6(link, one.slot); err != nil { // it leads nowhere any more
			n.log.Warn("address of a sandbox's gateway not removed", "sandbox_id", one.sandbox, "error", err)
		}
	}
	return nil
}

// enforce makes the kernel's state equal to the policy. Connections that an earlier process let pass under the same
// policy keep their mark, and its pins stay.
func (n *Network) enforce(one attachment) error {
	mark := n.held.mark(one.device)
	same := mark != 0 && n.held.has(one.device, one.policy.elements(one.device, mark, n.limitsOf(one.policy)))
	if !same {
		mark = nextMark(mark, one.slot)
	}
	if err := n.held.set(one.device, n.elements(one, mark), same); err != nil {
		return fmt.Errorf("set the policy: %w", err)
	}
	n.attached.put(one)
	return nil
}

// forget removes all that the kernel holds for a device.
func (n *Network) forget(one attachment) error {
	n.attached.remove(one.sandbox)
	return n.held.set(one.device, nil, false)
}

func (n *Network) limitsOf(p Policy) Limits { return p.Limits.or(n.cfg.Limits) }

// elements are all that the kernel holds for an attached sandbox, its pins excepted.
func (n *Network) elements(one attachment, mark uint32) []element {
	device, guest := word(one.device), ip(one.slot.Guest.Addr())
	gateway, hardware := ip(one.slot.Gateway), ether(GuestMAC(one.sandbox))
	list := []element{
		{slotOf{guests, device + hardware + guest}, content{}},
		{slotOf{gateways, device + gateway}, content{}},
		{slotOf{marks, device}, content{data: word(mark)}},
		{slotOf{current, device + word(mark)}, content{}},
	}
	if n.can.arp {
		list = append(list, element{slotOf: slotOf{arpGuests, device + hardware + guest + gateway}})
	}
	if one.policy.IPv6 {
		list = append(list, elementsIPv6(one)...)
	}
	list = append(list, counts(one.device)...)
	return append(list, one.policy.elements(one.device, mark, n.limitsOf(one.policy))...)
}

// elementsAhead are what the kernel may hold for a device that no sandbox has yet: nothing that lets anything pass.
func (n *Network) elementsAhead(device uint32) []element {
	return append(counts(device), n.cfg.Limits.elements(device)...)
}

// counts count what is refused to a device.
func counts(device uint32) (list []element) {
	for i := range Rules {
		list = append(list, element{slotOf{refusals, word(device) + word(uint32(i))}, content{counted: true}})
	}
	return list
}

// A connection's mark tells under which policy it passed: markOurs, then a number that grows with every policy of the
// slot, then the slot.
const (
	markOurs  = 1 << 31
	indexBits = 14 // 16,384 slots, the most that a subnet has
	indexMask = 1<<indexBits - 1
)

// nextMark is a mark that the slot's connections do not have. The first one is any: what a sandbox before left is
// then as good as never the same.
func nextMark(last uint32, slot Slot) uint32 {
	count := last >> indexBits
	if last == 0 {
		count = rand.Uint32()
	}
	return markOurs | (count+1)<<indexBits&^markOurs | uint32(slot.Index)
}

// networkSets hold what a policy says by address.
var networkSets = []string{allowed, denied, allowedIPv6, deniedIPv6}

// has says whether the kernel holds these elements for a device, as far as we know.
func (h *held) has(device uint32, list []element) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range list {
		if c, ok := h.elements[device][e.slotOf]; !ok || c != e.content {
			return false
		}
	}
	return h.count(device, networkSets...) == countOf(list, networkSets...)
}

// count says how many elements a device has in some sets. The caller holds mu.
func (h *held) count(device uint32, sets ...string) (count int) {
	for at := range h.elements[device] {
		if slices.Contains(sets, at.set) {
			count++
		}
	}
	return count
}

func countOf(list []element, sets ...string) (count int) {
	for _, e := range list {
		if slices.Contains(sets, e.set) {
			count++
		}
	}
	return count
}
