package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxPins is how many addresses a sandbox may have pinned at the same time.
const maxPins = 4096

// maxPinTime bounds what an answer may ask for.
const maxPinTime = 24 * time.Hour

// Pin lets a sandbox reach addrs for ttl: they are the answers to a name that its policy allows. Connections that begin
// meanwhile go on afterwards. Private addresses are left out: a name cannot allow what no rule by address does. The
// policy must have Names. When it returns, the guest may be told.
//
// Errors: NotFound for a sandbox that is not attached, Precondition for a policy without names, Exhausted for too many.
func (n *Network) Pin(ctx context.Context, sandbox id.Sandbox, addrs []netip.Addr, ttl time.Duration) error {
	end, err := n.beginFor(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	one, err := n.attached.of(sandbox)
	if err != nil {
		return err
	}
	if !one.policy.Names {
		return models.Errorf(models.Precondition, "the network policy of sandbox %s has no rules by name", sandbox)
	}
	ttl = min(max(ttl, time.Second), maxPinTime)
	list, err := one.pin(addrs, n.held.mark(one.device), ttl, time.Now())
	if err != nil {
		return err
	}
	if err := n.kernel.pin(list); err != nil {
		return fmt.Errorf("pin addresses for %s: %w", sandbox, err)
	}
	return nil
}

// pin notes what is to be pinned, and returns it as elements.
func (one attachment) pin(addrs []netip.Addr, mark uint32, ttl time.Duration, now time.Time) (list []element, err error) {
	for addr, until := range one.pinned {
		if until.Before(now) {
			delete(one.pinned, addr)
		}
	}
	for _, addr := range addrs {
		addr = addr.Unmap()
		if !addr.Is4() || isPrivate(addr) {
			continue
		}
		if len(one.pinned) >= maxPins {
			return nil, models.Errorf(models.Exhausted, "sandbox %s has %d addresses allowed by name already", one.sandbox, maxPins)
		}
		if until := now.Add(ttl); until.After(one.pinned[addr]) {
			one.pinned[addr] = until
			list = append(list, element{slotOf{pins, word(mark) + ip(addr)}, content{ttl: ttl}})
		}
	}
	return list, nil
}

// pin adds elements that may be there with less time left. Whether they are is not known for certain: they
// may end at any moment.
func (f *netfilter) pin(list []element) error {
	for _, e := range list {
		one := []element{e}
		err := f.commit(one, one)
		if errors.Is(err, unix.ENOENT) {
			err = f.commit(nil, one)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isPrivate(addr netip.Addr) bool {
	for _, private := range PrivateRanges {
		if private.Contains(addr) {
			return true
		}
	}
	return false
}
