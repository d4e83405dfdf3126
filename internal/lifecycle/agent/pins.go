package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
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
// denies: the network knows addresses and no names.
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

// allowed returns the pins that policy allows and that last beyond now, and forgets the others.
func (p *pins) allowed(policy models.NetworkPolicy, now time.Time) map[pin]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(func(one pin, until time.Time) bool { return !until.After(now) || !dns.Allows(policy, one.name) })
	out := make(map[pin]time.Time, len(p.of))
	for one, until := range p.of {
		out[one] = until
	}
	return out
}

// forget drops those of which is says so; the caller holds the lock.
func (p *pins) forget(is func(pin, time.Time) bool) {
	for one, until := range p.of {
		if is(one, until) {
			delete(p.of, one)
		}
	}
}
