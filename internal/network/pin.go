package network

import (
	"context"
	"fmt"
	"net/netip"
	"time"

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
	one, end, err := n.beginAttached(ctx, sandbox)
	if err != nil {
		return err
	}
	defer end()
	if !one.policy.Names {
		return models.Errorf(models.Precondition, "the network policy of sandbox %s has no rules by name", sandbox)
	}
	var public []netip.Addr
	for _, addr := range addrs {
		if addr = addr.Unmap(); addr.Is4() && !isPrivate(addr) {
			public = append(public, addr)
		}
	}
	if err := n.held.pin(one.device, n.held.mark(one.device), public, min(max(ttl, time.Second), maxPinTime)); err != nil {
		return fmt.Errorf("pin addresses for %s: %w", sandbox, err)
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
