package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DefaultPool is how many TAPs wait for sandboxes to come.
const DefaultPool = 16

// pool makes TAPs ahead of the sandboxes that will have them: those of the slots that are handed out next. A TAP of
// the pool is down; it is named after its slot and has the slot's gateway address: for each address that it is given the
// kernel looks at all that there are, which takes milliseconds beside ten thousand. One that was used is never used again: a VMM may
// still have it open.
type pool struct {
	size int
	of   *Network

	mu    sync.Mutex
	ready map[int]int // slot: device
	busy  map[int]*making

	wake chan struct{}
}

// making is the work on the TAP of a slot.
type making struct {
	done   chan struct{}
	unused bool // nobody else has the slot's address: what has it from now on is the TAP
}

// poolPrefix begins the names of the pool's TAPs.
const poolPrefix = anyTAP + "free-"

func poolName(slot int) string { return poolPrefix + strconv.Itoa(slot) }

func newPool(of *Network, size int) *pool {
	return &pool{size: size, of: of, ready: map[int]int{}, busy: map[int]*making{}, wake: make(chan struct{}, 1)}
}

// run refills the pool until ctx ends.
func (p *pool) run(ctx context.Context) {
	for {
		if err := p.fill(ctx); err != nil && ctx.Err() == nil {
			p.of.log.Warn("network devices could not be made ahead; sandboxes wait for theirs", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(refillDelay):
		}
	}
}

// refillDelay lets whoever has just taken a device finish: the kernel has one lock for all who work on devices.
const refillDelay = 20 * time.Millisecond

// refill makes run look whether there are enough.
func (p *pool) refill() {
	notify(p.wake)
}

func (p *pool) fill(ctx context.Context) error {
	for _, index := range p.of.slots.next(p.size) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.prepare(p.of.slots.slot(index)); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the TAP of a slot, if there is none.
func (p *pool) prepare(slot Slot) error {
	if !p.begin(slot.Index) {
		return nil
	}
	device, err := p.make(slot)
	p.end(slot.Index, device)
	return err
}

// make makes the TAP of a slot, unless somebody else has the slot's address.
func (p *pool) make(slot Slot) (device int, err error) {
	const nothing = 0
	used, err := p.of.routed(slot, nothing)
	if err != nil {
		return 0, err
	}
	if used {
		p.of.slots.postpone(slot.Index)
		return 0, nil
	}
	p.unused(slot.Index)
	if device, err = p.of.makeTAP(slot); err != nil {
		return 0, err
	}
	return device, p.of.held.set(uint32(device), p.of.elementsAhead(uint32(device)), false)
}

// take returns the device of a slot that is held, which is made if it is not there yet.
func (p *pool) take(ctx context.Context, slot Slot) (int, error) {
	for {
		device, making := p.pick(slot.Index)
		switch {
		case device != 0:
			return device, nil
		case making == nil:
			return p.of.makeTAP(slot)
		}
		select {
		case <-making:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// pick takes a slot's device out of the pool, or returns what is closed when it has been made; neither when there is none.
func (p *pool) pick(slot int) (device int, making <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	device = p.ready[slot]
	delete(p.ready, slot)
	if busy := p.busy[slot]; busy != nil {
		making = busy.done
	}
	return device, making
}

// begin notes that the TAP of a slot is being made; false when it is not needed, or no longer. Whoever holds the slot
// takes after it has been reserved, and so sees that.
func (p *pool) begin(slot int) (begun bool) {
	p.of.slots.whileFree(slot, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.ready[slot] == 0 && p.busy[slot] == nil {
			p.busy[slot] = &making{done: make(chan struct{})}
			begun = true
		}
	})
	return begun
}

// unused notes that a slot whose TAP is being made is nobody else's.
func (p *pool) unused(slot int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy[slot].unused = true
}

// at returns the device that is ready for a slot, 0 for none, and whether one is being made, the slot having been found unused.
func (p *pool) at(slot int) (device int, unused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	busy := p.busy[slot]
	return p.ready[slot], busy != nil && busy.unused
}

func (p *pool) end(slot, device int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.busy[slot].done)
	delete(p.busy, slot)
	if device != 0 {
		p.ready[slot] = device
	}
}

// drain forgets what is ready and deletes it.
func (n *Network) drain() error {
	links, err := whole(n.route.LinkList)
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, link := range links {
		if _, ok := slotOfPool(link); ok {
			err = errors.Join(err, n.discard(link.Attrs().Name))
		}
	}
	return err
}

// slotOfPool returns the slot that a device was made for, if it is one of a pool.
func slotOfPool(link netlink.Link) (int, bool) {
	digits, ok := strings.CutPrefix(link.Attrs().Name, poolPrefix)
	slot, err := strconv.Atoi(digits)
	_, tap := link.(*netlink.Tuntap)
	return slot, ok && err == nil && tap
}

// adopt takes over the pool of an earlier process; what does not fit is deleted, and what it was about to delete.
func (n *Network) adopt(links []netlink.Link) error {
	for _, link := range links {
		tap, ok := link.(*netlink.Tuntap)
		if !ok {
			continue
		}
		if strings.HasPrefix(tap.Name, goneTAP) {
			if err := n.bury(link); err != nil {
				return err
			}
		}
		if index, ok := slotOfPool(link); ok {
			if err := n.adoptFree(tap, index); err != nil {
				return err
			}
		}
	}
	return nil
}

// adoptFree takes over the TAP of a pool, which was made for the slot of this index.
func (n *Network) adoptFree(tap *netlink.Tuntap, index int) error {
	fits, err := n.fits(tap, index)
	if err != nil {
		return err
	}
	if !fits {
		return n.discard(tap.Name)
	}
	n.pool.ready[index] = tap.Index
	if err := n.dress(tap.Index, n.slots.slot(index)); err != nil {
		return err
	}
	n.slots.prefer(index)
	return n.held.set(uint32(tap.Index), n.elementsAhead(uint32(tap.Index)), false)
}

// fits says whether the pool has a place for a TAP, and the TAP is what it would make for the slot, or was about to make.
func (n *Network) fits(tap *netlink.Tuntap, index int) (bool, error) {
	if index >= n.slots.count() || tap.Owner != n.slots.slot(index).Owner || len(n.pool.ready) >= n.pool.size {
		return false, nil
	}
	gateway, err := n.address(tap.Name)
	return !gateway.IsValid() || gateway == n.slots.slot(index).Gateway, err
}

// makeTAP makes the TAP of a slot, down, and returns its index.
func (n *Network) makeTAP(slot Slot) (int, error) {
	name := poolName(slot.Index)
	index, err := n.ifindex(name)
	if err != nil {
		return 0, err
	}
	if index == 0 {
		if err := n.ns.Do(func() error { return createTAP(name, slot.Owner) }); err != nil {
			return 0, fmt.Errorf("make %s: %w", name, err)
		}
		if index, err = n.ifindex(name); err != nil {
			return 0, err
		}
	}
	return index, n.dress(index, slot)
}

// dress gives a TAP the gateway's addresses. Without a link-local address the host sends no IPv6 to the guest;
// a kernel without IPv6 needs no telling.
func (n *Network) dress(index int, slot Slot) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if err := n.route.LinkSetHardwareAddr(link, gatewayMAC); err != nil {
		return fmt.Errorf("set hardware address: %w", err)
	}
	const none = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	if err := n.route.LinkSetIP6AddrGenMode(link, none); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turn IPv6 addresses off: %w", err)
	}
	if err := n.route.AddrReplace(link, slot.gatewayAddress()); err != nil {
		return fmt.Errorf("set address %s: %w", slot.Gateway, err)
	}
	return nil
}

// createTAP makes a persistent TAP device in the calling thread's namespace, that owner may open:
// Documentation/networking/tuntap.rst. With IFF_VNET_HDR guest and host leave checksums and
// segmentation to each other. IFF_TUN_EXCL refuses a device that exists.
func createTAP(name string, owner uint32) error {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, request); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(int(tun.Fd()), unix.TUNSETOWNER, int(owner)); err != nil {
		return os.NewSyscallError("TUNSETOWNER", err)
	}
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(int(tun.Fd()), unix.TUNSETPERSIST, 1))
}
