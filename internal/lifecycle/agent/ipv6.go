package agent

import (
	"context"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// guestNetwork is what a sandbox's guest is told of its link, but for name servers.
func (a *Agent) guestNetwork(s *sandbox, link network.Link) *envdclient.Network {
	return &envdclient.Network{Address: link.Guest, Gateway: link.Gateway, IPv6: a.guestIPv6(s)}
}

// guestIPv6 is what its guest is to have by IPv6 under the policy that is in force by now.
func (a *Agent) guestIPv6(s *sandbox) *envdclient.IPv6 {
	slot, held := s.holds()
	if addr, _, err := a.cfg.Network.IPv6(s.id); err != nil || !held || !addr.IsValid() {
		return &envdclient.IPv6{}
	}
	return &envdclient.IPv6{Address: slot.IPv6.Guest, Gateway: slot.IPv6.Gateway}
}

// tellLimit bounds how long a guest may take to change its addresses: it is not trusted to do so at all.
const tellLimit = 5 * time.Second

// tellOfIPv6 has a running guest take its IPv6 address, or give it up, after the policy has changed: without, its programs would try what leads
// nowhere, and wait. What may pass has been decided; so a guest that does not answer changes nothing but its own comfort. One that is paused is told when it wakes.
func (a *Agent) tellOfIPv6(ctx context.Context, s *sandbox) {
	_, guest := s.machine()
	if guest == nil || s.view().State != Running {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellLimit)
	defer cancel()
	if err := guest.Init(ctx, envdclient.Init{Network: &envdclient.Network{IPv6: a.guestIPv6(s)}}); err != nil {
		a.log.Warn("guest not told of its IPv6 address; it is when it is resumed", "sandbox_id", s.id, "error", err)
	}
}
