package agent

import (
	"context"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// guestNetwork is what a guest is told of its link, but for name servers.
func guestNetwork(link network.Link) *envdclient.Network {
	return &envdclient.Network{Address: link.Guest, Gateway: link.Gateway, IPv6: guestIPv6(link.IPv6)}
}

func guestIPv6(ends network.IPv6) *envdclient.IPv6 {
	return &envdclient.IPv6{Address: ends.Guest, Gateway: ends.Gateway}
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
	var ends network.IPv6
	slot, held := s.holds()
	addr, _, err := a.cfg.Network.IPv6(s.id)
	if err == nil && held && addr.IsValid() {
		ends = slot.IPv6
	}
	if err == nil {
		err = guest.Init(ctx, envdclient.Init{Network: &envdclient.Network{IPv6: guestIPv6(ends)}})
	}
	if err != nil {
		a.log.Warn("guest not told of its IPv6 address; it is when it is resumed", "sandbox_id", s.id, "error", err)
	}
}
