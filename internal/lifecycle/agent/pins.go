package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/dns"
)

// maxPinned is how many pins are remembered of a sandbox: as many as the network takes.
const maxPinned = 4096

// pin is an address that a sandbox may reach because a name leads to it.
type pin struct {
	name string
	addr netip.Addr
}

// pins remembers what was pinned for a sandbox, and until when, so that a policy that changes takes back no more than it
// denies. An agent that was killed has it from the network, which keeps one name for each address.
type pins struct {
	mu sync.Mutex // guards of
	of map[pin]time.Time
}

// add remembers that addrs are pinned. What is forgotten since there are too many ends with the policy.
func (p *pins) add(name string, addrs []netip.Addr, until, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[pin]time.Time{}
	}
	if len(p.of)+len(addrs) > maxPinned {
		p.forget(func(_ pin, until time.Time) bool { return until.Before(now) })
	}
	for _, addr := range addrs {
		if one := (pin{name, addr}); len(p.of) < maxPinned && until.After(p.of[one]) {
			p.of[one] = until
		}
	}
}

// recall remembers what an earlier agent pinned.
func (p *pins) recall(list []network.Pinned, now time.Time) {
	for _, one := range list {
		p.add(one.Name, []netip.Addr{one.Addr}, one.Until, now)
	}
}

// allowed returns the pins that policy allows and that last beyond now.
func (p *pins) allowed(policy models.NetworkPolicy, now time.Time) (list []network.Pinned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for one, until := range p.of {
		if until.After(now) && dns.Allows(policy, one.name) {
			list = append(list, network.Pinned{Name: one.name, Addr: one.addr, Until: until})
		}
	}
	return list
}

// disallow forgets the pins that policy does not allow.
func (p *pins) disallow(policy models.NetworkPolicy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(func(one pin, _ time.Time) bool { return !dns.Allows(policy, one.name) })
}

// forget drops those of which is says so; the caller holds the lock.
func (p *pins) forget(is func(pin, time.Time) bool) {
	for one, until := range p.of {
		if is(one, until) {
			delete(p.of, one)
		}
	}
}
