package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/dns"
)

// anything is every private network: which of them a policy may allow the control plane has decided.
var anything = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// attach gives the sandbox's guest its network, as far as its policy goes, or makes what there is equal to that.
func (a *Agent) attach(ctx context.Context, s *sandbox) (network.Link, error) {
	slot, _ := s.holds() // for as long as there is a sandbox
	return a.cfg.Network.Attach(ctx, s.id, slot, rules(s.policy()))
}

// SetNetwork puts a policy of a running or paused sandbox in force and returns its generation. It holds before SetNetwork returns, and
// after every crash; after an error the one before holds. A policy that is older than the one in force changes
// nothing: the generation returned is that of the one in force.
func (a *Agent) SetNetwork(ctx context.Context, sb id.Sandbox, p models.NetworkPolicy) (int64, error) {
	if err := models.CheckNetwork(p, anything); err != nil {
		return 0, err
	}
	s, err := a.find(sb)
	if err != nil {
		return 0, err
	}
	if err := s.acquire(ctx); err != nil {
		return 0, err
	}
	defer s.release()
	if v := s.view(); !v.State.lives() {
		return 0, v.isNot(Running)
	}
	now := s.policy()
	if p.Generation < now.Generation || p.Generation == now.Generation && p.Equal(now) {
		return now.Generation, nil
	}
	ctx, done := undoContext(ctx) // half of it is worse than either
	defer done()
	if err := a.enforce(ctx, s, p); err != nil {
		return 0, err
	}
	if p.IPv6 != now.IPv6 {
		a.tellOfIPv6(ctx, s)
	}
	a.changes.publish(s.view())
	a.log.Info("network policy changed", "sandbox_id", sb, "generation", p.Generation)
	return p.Generation, nil
}

// enforce records a policy and puts it in force. The record comes first, so that a crash in between ends with the new one.
func (a *Agent) enforce(ctx context.Context, s *sandbox, p models.NetworkPolicy) error {
	before := s.update(func(*record) {})
	after := before
	after.Network = &p
	if err := after.write(a.dir(s.id)); err != nil {
		return err
	}
	s.network.Lock() // no answer to a name that only the old policy allows is pinned from here on
	defer s.network.Unlock()
	if err := a.cfg.Network.SetPolicy(ctx, s.id, rules(p), s.pins.allowed(p, time.Now())...); err != nil {
		if undo := before.write(a.dir(s.id)); undo != nil {
			a.log.Error("record of a network policy that could not be put in force not undone", "sandbox_id", s.id, "error", undo)
		}
		return err
	}
	s.update(func(r *record) { r.Network = &p })
	s.pins.disallow(p)
	return nil
}

// rules returns what of a policy the network enforces by itself: the rest is names, which it is told the addresses of.
func rules(p models.NetworkPolicy) network.Policy {
	allow, namesAllowed := prefixes(p.Allow)
	deny, namesDenied := prefixes(p.Deny)
	const bytes = 1_000_000 / 8 // in a megabit
	return network.Policy{
		Internet: p.Internet, IPv6: p.IPv6, Allow: allow, Deny: deny, Names: namesAllowed || namesDenied,
		Limits: network.Limits{
			UploadBytes: uint64(p.Limits.UploadMbit) * bytes, DownloadBytes: uint64(p.Limits.DownloadMbit) * bytes,
			Packets:     uint64(p.Limits.PacketsPerSecond),
			Connections: uint32(p.Limits.Connections), NewConnections: uint32(p.Limits.ConnectionsPerSecond),
		},
	}
}

// prefixes returns the addresses of a list, and whether there are names in it.
func prefixes(list []models.Destination) (out []netip.Prefix, named bool) {
	for _, d := range list {
		if d.Name != "" {
			named = true
		} else {
			out = append(out, d.Prefix)
		}
	}
	return out, named
}

// policy returns the policy in force.
func (s *sandbox) policy() models.NetworkPolicy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.policy()
}

// names is the agent as the name server's host.
type names struct{ *Agent }

// Names returns the agent's side of the name server of its sandboxes.
func (a *Agent) Names() dns.Host { return names{a} }

// Policy implements dns.Host.
func (n names) Policy(addr netip.Addr) (dns.Policy, bool) {
	sb, ok := n.cfg.Network.SandboxAt(addr)
	if !ok {
		return dns.Policy{}, false
	}
	s, err := n.find(sb)
	if err != nil {
		return dns.Policy{}, false
	}
	p := s.policy()
	if p.IPv6 { // a host without does not answer with addresses that nothing leads to
		addr, _, err := n.cfg.Network.IPv6(sb)
		p.IPv6 = err == nil && addr.IsValid()
	}
	return dns.Policy{Sandbox: sb, NetworkPolicy: p}, true
}

// Holds implements dns.Host.
func (n names) Holds(sb id.Sandbox) bool {
	_, err := n.find(sb)
	return err == nil
}

// Pin implements dns.Host.
func (n names) Pin(ctx context.Context, p dns.Policy, name string, addrs []netip.Addr, ttl time.Duration) error {
	s, err := n.find(p.Sandbox)
	if err != nil {
		return err
	}
	s.network.RLock()
	defer s.network.RUnlock()
	if s.policy().Generation != p.Generation {
		return dns.ErrChanged
	}
	if err := n.cfg.Network.Pin(ctx, p.Sandbox, name, addrs, ttl); err != nil {
		return err
	}
	now := time.Now()
	s.pins.add(name, addrs, now.Add(ttl), now)
	return nil
}

// Refused implements dns.Host.
func (n names) Refused(r dns.Refusal) {
	n.note(r.Sandbox, models.NetworkRefusal{Last: time.Now().UTC(), Protocol: "dns", Name: r.Name, Rule: string(r.Rule), Why: r.Why, Count: 1})
}
