package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// maxDeletions is how many requests to delete a device may be under way. Each holds a thread
// for as long as the kernel waits for its own readers, some 20 ms.
const maxDeletions = 64

// Detach removes the sandbox's TAP, its policy and the connections that its guest had, also while the VMM
// has it open. When it returns nil nothing passes any more, and no device has its name or its address: what is left of the TAP,
// under another name, the kernel deletes in the background, which takes it some 20 ms. Detaching what is not
// attached succeeds.
func (n *Network) Detach(ctx context.Context, sandbox id.Sandbox) error {
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	if err := n.discard(ctx, TAPName(sandbox)); err != nil {
		return fmt.Errorf("detach %s: %w", TAPName(sandbox), err)
	}
	n.attached.remove(sandbox)
	return nil
}

// Sweep detaches every sandbox that has a TAP here and is not in keep, and returns which
// those were. It must not run while a sandbox that is not in keep is being attached.
func (n *Network) Sweep(ctx context.Context, keep map[id.Sandbox]bool) ([]id.Sandbox, error) {
	attached, err := n.attachedHere(ctx)
	var swept []id.Sandbox
	for _, sandbox := range attached {
		if keep[sandbox] {
			continue
		}
		if detachErr := n.Detach(ctx, sandbox); detachErr != nil {
			err = errors.Join(err, detachErr)
			continue
		}
		swept = append(swept, sandbox)
	}
	return swept, err
}

// attachedHere lists the sandboxes that have a TAP in the namespace.
func (n *Network) attachedHere(ctx context.Context) ([]id.Sandbox, error) {
	end, err := n.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	links, err := whole(n.route.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	var list []id.Sandbox
	for _, link := range links {
		if sandbox, ok := sandboxOf(link); ok {
			list = append(list, sandbox)
		}
	}
	return list, nil
}

// sandboxOf returns the sandbox that a device is the TAP of, if it is one.
func sandboxOf(link netlink.Link) (id.Sandbox, bool) {
	sandbox, err := id.ParseSandbox(strings.TrimPrefix(link.Attrs().Name, "tap-"))
	_, tap := link.(*netlink.Tuntap)
	return sandbox, err == nil && tap && link.Attrs().Name == TAPName(sandbox)
}

// discard takes a TAP out of use, if there is one of this name. The order matters: without its policy nothing passes the
// device any more, so the connections forgotten then stay forgotten; and only when that is done does it lose its name,
// so that whoever finishes a removal that was cut short finds out about both.
func (n *Network) discard(ctx context.Context, name string) error {
	index, err := n.ifindex(name)
	if err != nil || index == 0 {
		return err
	}
	link, err := n.tap(name, index)
	if err != nil {
		return err
	}
	gateway, err := n.address(name)
	if err != nil {
		return err
	}
	if err := n.held.set(uint32(index), nil, false); err != nil {
		return fmt.Errorf("remove the policy: %w", err)
	}
	if slot, ok := n.slots.at(gateway); ok {
		if err := n.vacate(link, slot); err != nil {
			return err
		}
	}
	if err := n.rename(link); err != nil {
		return err
	}
	return n.bury(ctx, link)
}

// vacate frees the addresses of a slot.
func (n *Network) vacate(link netlink.Link, slot Slot) error {
	if err := n.kernel.forgetConnections(slot); err != nil {
		return err
	}
	gateway := &netlink.Addr{IPNet: &net.IPNet{IP: slot.Gateway.AsSlice(), Mask: net.CIDRMask(slotBits, 32)}}
	if err := n.route.AddrDel(link, gateway); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s: %w", slot.Gateway, err)
	}
	return nil
}

// goneTAP begins the names of devices that wait for their deletion.
const goneTAP = anyTAP + "gone-"

// rename gives a device a name that nobody looks for. Kernels before 6.2 rename only what is turned off, which takes them longer.
func (n *Network) rename(link netlink.Link) error {
	name := goneTAP + strconv.FormatInt(int64(link.Attrs().Index), 36)
	err := n.route.LinkSetName(link, name)
	if errors.Is(err, unix.EBUSY) {
		if err := n.route.LinkSetDown(link); err != nil {
			return fmt.Errorf("turn off: %w", err)
		}
		err = n.route.LinkSetName(link, name)
	}
	if err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return nil
}

// bury deletes a device in the background. It waits when too many are being deleted already.
func (n *Network) bury(ctx context.Context, link netlink.Link) error {
	select {
	case n.deletion <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	n.deleting.Go(func() {
		defer func() { <-n.deletion }()
		if err := n.ns.Do(func() error { return deleteLink(link) }); err != nil {
			n.log.Warn("network device could not be deleted; the next start of the agent tries again", "device", link.Attrs().Index, "error", err)
		}
	})
	return nil
}

// deleteLink uses a socket of its own, so that others need not wait for the kernel's answer.
func deleteLink(link netlink.Link) error {
	route, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer route.Close()
	if err := route.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// busy holds a lock for each sandbox that is being worked on.
type busy struct {
	mu    sync.Mutex
	locks map[id.Sandbox]*turn
}

// turn is a lock and the number of those who hold it or wait for it.
type turn struct {
	sync.Mutex
	users int
}

// lock waits until nobody else works on sandbox, and returns what ends that.
func (b *busy) lock(sandbox id.Sandbox) (unlock func()) {
	b.mu.Lock()
	if b.locks == nil {
		b.locks = make(map[id.Sandbox]*turn)
	}
	t := b.locks[sandbox]
	if t == nil {
		t = new(turn)
		b.locks[sandbox] = t
	}
	t.users++
	b.mu.Unlock()
	t.Lock()
	return func() {
		t.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(b.locks, sandbox)
		}
	}
}
