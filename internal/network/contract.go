package network

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// SetPolicy replaces the policy of an attached sandbox in one transaction.
func (n *Network) SetPolicy(ctx context.Context, sandbox id.Sandbox, p Policy) error {
	return models.Errorf(models.Unavailable, "not yet")
}

// Pin lets a sandbox reach addrs for ttl.
func (n *Network) Pin(ctx context.Context, sandbox id.Sandbox, addrs []netip.Addr, ttl time.Duration) error {
	return models.Errorf(models.Unavailable, "not yet")
}

// ListenDNS opens what guests reach as their gateway's port 53.
func (n *Network) ListenDNS(ctx context.Context) (net.PacketConn, net.Listener, error) {
	return nil, nil, models.Errorf(models.Unavailable, "not yet")
}

// SandboxAt says whose guest address addr is.
func (n *Network) SandboxAt(addr netip.Addr) (id.Sandbox, bool) { return "", false }

// Refusals are what the rules dropped.
func (n *Network) Refusals() <-chan Refusal { return nil }

// Counters returns a sandbox's traffic.
func (n *Network) Counters(sandbox id.Sandbox) (Counters, error) {
	return Counters{}, models.Errorf(models.Unavailable, "not yet")
}
