package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// maxDeletions is how many requests to delete a device may be under way. Each holds a thread
// for as long as the kernel waits for its own readers, some 20 ms.
const maxDeletions = 64

// Detach removes the sandbox's TAP, its policy and the connections that its guest had, also while the VMM
// has it open. When it returns nil the device is gone for everyone who looks. Detaching
// what is not attached succeeds.
func (n *Network) Detach(ctx context.Context, sandbox id.Sandbox) error {
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	if err := n.remove(ctx, TAPName(sandbox)); err != nil {
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

// remove deletes a TAP, if there is one of this name. The order matters: once the device
// is down nothing passes it any more, so the connections forgotten then stay forgotten; and only
// when that is done does the device go, so that whoever finishes a removal that was cut
// short finds out about both.
func (n *Network) remove(ctx context.Context, name string) error {
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
	if err := n.route.LinkSetDown(link); err != nil {
		return fmt.Errorf("turn off: %w", err)
	}
	if err := n.held.set(uint32(index), nil, false); err != nil {
		return fmt.Errorf("remove the policy: %w", err)
	}
	if slot, ok := n.slots.at(gateway); ok {
		if err := forgetConnections(n.ns, slot); err != nil {
			return err
		}
	}
	return n.delete(ctx, name, link)
}

// delete deletes a device and returns once it is gone. It does not wait for the answer to the
// request: the device leaves every list within a millisecond, then the kernel waits some 20 ms
// for its own readers before it frees the memory and answers.
func (n *Network) delete(ctx context.Context, name string, link netlink.Link) error {
	select {
	case n.deletion <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	answer := make(chan error, 1)
	n.deleting.Go(func() {
		defer func() { <-n.deletion }()
		answer <- n.ns.Do(func() error { return deleteLink(link) })
	})
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			if gone, err := n.gone(name, link); gone || err != nil {
				return err
			}
		}
	}
}

// gone says whether a device has left the namespace. The second question waits, as every
// program that lists devices does, until the kernel has taken the device from all its lists.
func (n *Network) gone(name string, link netlink.Link) (bool, error) {
	if index, err := n.ifindex(name); err != nil || index != 0 {
		return false, err
	}
	_, err := n.route.LinkByIndex(link.Attrs().Index)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return true, nil
	}
	return false, err
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
