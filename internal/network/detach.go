package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Detach removes the sandbox's TAP, its policy and the connections that its guest had, also while the VMM
// has it open. When it returns nil nothing passes any more, and no device has its name or its address: what is left of the TAP,
// under another name, is deleted in the background (graveyard.go). Detaching what is not
// attached succeeds.
func (n *Network) Detach(ctx context.Context, sandbox id.Sandbox) error {
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	if err := n.discard(TAPName(sandbox)); err != nil {
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
func (n *Network) discard(name string) error {
	index, err := n.ifindex(name)
	if err != nil || index == 0 {
		return err
	}
	link, hasIPv6, err := n.removable(name, index)
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
		if hasIPv6 {
			err = n.closeIPv6(link, slot)
		}
		if err != nil {
			return err
		}
	}
	return n.bury(link)
}

// removable is the device of this index, if it is ours, and whether it may have an IPv6 address. The kernel need not be asked about one that we gave to a sandbox.
func (n *Network) removable(name string, index int) (link netlink.Link, hasIPv6 bool, err error) {
	if sandbox, ok := n.attached.on(uint32(index)); ok {
		one, err := n.attached.of(sandbox)
		return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, one.policy.IPv6, err
	}
	link, err = n.tap(name, index)
	return link, true, err
}

// vacate frees the addresses of a slot.
func (n *Network) vacate(link netlink.Link, slot Slot) error {
	if err := n.kernel.forgetConnections(slot); err != nil {
		return err
	}
	if err := n.route.AddrDel(link, slot.gatewayAddress()); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s: %w", slot.Gateway, err)
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
