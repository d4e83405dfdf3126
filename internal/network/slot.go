package network

import (
	"container/list"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// slotBits is the size of a slot: four addresses.
const slotBits = 30

// Slot is a /30 of the subnet, held by whoever got it from Reserve or Take.
type Slot struct {
	Index   int          // what Take needs after a restart
	Gateway netip.Addr   // the host's end: .1
	Guest   netip.Prefix // the guest's address, with the /30's length: .2/30
	IPv6    IPv6         // the same of the IPv6 subnet, for a policy that allows it
	Owner   uint32       // uid and gid that the TAP belongs to, which its VMM runs as; 0: root

	lease uint64 // tells this holder of the slot from the one before it
}

// IPv6 is one end of a sandbox's link and the other, as they are by IPv6.
type IPv6 struct {
	Gateway netip.Addr   // the host's end: ::1 of the four; invalid where there is no IPv6
	Guest   netip.Prefix // ::2/126
}

// Reserve hands out the slot that has been free for longest, so that an address is not used again
// while anyone outside still remembers its last user. A slot whose address or route is in the namespace,
// as a crash may leave it, is passed over. When none is left the error is Exhausted.
func (n *Network) Reserve(ctx context.Context) (Slot, error) {
	end, err := n.begin(ctx)
	if err != nil {
		return Slot{}, err
	}
	defer end()
	return n.slots.reserve(n.occupied)
}

// Take hands out the slot with this index, which a sandbox held before a restart. It is Invalid
// for an index that the subnet does not have, Conflict for a slot that is held.
func (n *Network) Take(index int) (Slot, error) { return n.slots.take(index) }

// Release gives a slot back. Releasing it twice does nothing, whoever holds it by then.
// Call it after Detach; before, the slot would not be handed out anyway.
func (n *Network) Release(slot Slot) { n.slots.release(slot) }

// slots knows which slots are free, in the order in which they became so.
type slots struct {
	subnet    netip.Prefix
	ipv6      netip.Prefix // the subnet of IPv6
	ownerBase uint32       // of slot 0; 0: root owns all

	mu     sync.Mutex
	free   *list.List      // of indexes, the longest free first
	places []*list.Element // in free; nil while the slot is held
	leases []uint64        // of the present holder
	users  []id.Sandbox    // that the present holder attached; empty before
	last   uint64          // lease given
}

func newSlots(subnet, ipv6 netip.Prefix, ownerBase uint32) (*slots, error) {
	if !subnet.Addr().Is4() || subnet.Bits() < 16 || subnet.Bits() > slotBits || subnet != subnet.Masked() {
		return nil, models.Errorf(models.Invalid, "sandbox subnet %s cannot be used", subnet).
			WithHint("give the first address of an IPv4 network between /16 and /30, as in %s", DefaultSubnet)
	}
	if !uniqueLocal.Contains(ipv6.Addr()) || ipv6.Bits() < 8 || ipv6.Bits() > maxIPv6Bits || ipv6 != ipv6.Masked() {
		return nil, models.Errorf(models.Invalid, "sandbox IPv6 subnet %s cannot be used", ipv6).
			WithHint("give the first address of a unique local network (RFC 4193), no longer than /%d, as in %s", maxIPv6Bits, DefaultSubnetIPv6)
	}
	count := 1 << (slotBits - subnet.Bits())
	s := &slots{
		subnet:    subnet,
		ipv6:      ipv6,
		ownerBase: ownerBase,
		free:      list.New(),
		places:    make([]*list.Element, count),
		leases:    make([]uint64, count),
		users:     make([]id.Sandbox, count),
	}
	// The order of release is forgotten at a restart; beginning anywhere makes it as
	// unlikely as can be that the address freed last is the first to be used again.
	first := rand.IntN(count)
	for i := range count {
		index := (first + i) % count
		s.places[index] = s.free.PushBack(index)
	}
	return s, nil
}

func (s *slots) count() int { return len(s.places) }

// reserve hands out the first free slot that is not occupied. Those that are go to the end.
func (s *slots) reserve(occupied func(Slot) (bool, error)) (Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.free.Len() {
		first := s.free.Front()
		slot := s.slot(first.Value.(int))
		used, err := occupied(slot)
		if err != nil {
			return Slot{}, fmt.Errorf("look for %s in the namespace: %w", slot.Gateway, err)
		}
		if !used {
			return s.hold(slot), nil
		}
		s.free.MoveToBack(first)
	}
	return Slot{}, models.Errorf(models.Exhausted, "all %d network addresses of the host are in use", s.count()).
		WithHint("destroy sandboxes that are not needed, or give the host a larger subnet")
}

func (s *slots) take(index int) (Slot, error) {
	if index < 0 || index >= s.count() {
		return Slot{}, models.Errorf(models.Invalid, "network slot %d does not exist in %s", index, s.subnet)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[index] == nil {
		return Slot{}, models.Errorf(models.Conflict, "network slot %d is held already", index)
	}
	return s.hold(s.slot(index)), nil
}

// hold takes a free slot out of the queue.
func (s *slots) hold(slot Slot) Slot {
	s.free.Remove(s.places[slot.Index])
	s.places[slot.Index] = nil
	s.last++
	slot.lease = s.last
	s.leases[slot.Index] = slot.lease
	return slot
}

func (s *slots) release(slot Slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held(slot) {
		s.places[slot.Index] = s.free.PushBack(slot.Index)
		s.leases[slot.Index], s.users[slot.Index] = 0, ""
	}
}

// use notes that sandbox is attached to slot, once for all of the slot's lease.
func (s *slots) use(slot Slot, sandbox id.Sandbox) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held(slot) {
		return models.Errorf(models.Precondition, "network slot %d is not reserved for sandbox %s", slot.Index, sandbox)
	}
	user := &s.users[slot.Index]
	if *user != "" && *user != sandbox {
		return models.Errorf(models.Conflict, "network slot %d belongs to sandbox %s", slot.Index, *user)
	}
	*user = sandbox
	return nil
}

func (s *slots) held(slot Slot) bool {
	return slot.lease != 0 && slot.Index >= 0 && slot.Index < s.count() && s.leases[slot.Index] == slot.lease
}

// slot returns the addresses of a slot.
func (s *slots) slot(index int) Slot {
	base := s.subnet.Addr().As4()
	first := binary.BigEndian.Uint32(base[:]) + uint32(index)<<2
	slot := Slot{Index: index, Gateway: address(first + 1), Guest: netip.PrefixFrom(address(first+2), slotBits), IPv6: ipv6Of(s.ipv6, index)}
	if s.ownerBase != 0 {
		slot.Owner = s.ownerBase + uint32(index)
	}
	return slot
}

// at is the slot that has this address as its gateway's.
func (s *slots) at(gateway netip.Addr) (Slot, bool) {
	if !s.subnet.Contains(gateway) {
		return Slot{}, false
	}
	base, b := s.subnet.Addr().As4(), gateway.As4()
	slot := s.slot(int(binary.BigEndian.Uint32(b[:])-binary.BigEndian.Uint32(base[:])) >> 2)
	return slot, slot.Gateway == gateway
}

// next lists up to n slots in the order in which they will be reserved.
func (s *slots) next(n int) (list []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.free.Front(); e != nil && len(list) < n; e = e.Next() {
		list = append(list, e.Value.(int))
	}
	return list
}

// whileFree calls f if a slot is free, which it stays meanwhile.
func (s *slots) whileFree(index int, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[index] != nil {
		f()
	}
}

// prefer makes a slot the next to be reserved, if it is free.
func (s *slots) prefer(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if place := s.places[index]; place != nil {
		s.free.MoveToFront(place)
	}
}

// postpone makes a slot the last to be reserved, if it is free.
func (s *slots) postpone(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if place := s.places[index]; place != nil {
		s.free.MoveToBack(place)
	}
}

// gatewayAddress is the gateway's address with the /30's length, as rtnetlink(7) wants it.
func (s Slot) gatewayAddress() *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: s.Gateway.AsSlice(), Mask: net.CIDRMask(slotBits, 32)}}
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}
