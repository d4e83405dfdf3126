package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestGuestIsToldOfIPv6: a guest has its IPv6 address from the boot on, or as soon as a policy allows it, or from its next resume on; and no longer than
// that allows it. One that does not listen changes nothing.
func TestGuestIsToldOfIPv6(t *testing.T) {
	r := newRig(t)
	r.driver.inits, r.driver.resumes = make(chan []byte, 1), make(chan []byte, 1)
	policy := func(generation int64, on bool) models.NetworkPolicy {
		return models.NetworkPolicy{Generation: generation, Internet: true, IPv6: on}
	}
	boots := func(on bool) (Sandbox, []string) {
		sb := r.createWith(policy(1, on))
		<-r.driver.inits
		return sb, r.driver.spec(r.agent.runDir(sb.ID)).Args
	}
	has := func(args []string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "wrenn.ip6=fd57:") })
	}
	if _, args := boots(true); !has(args) {
		t.Errorf("a guest with IPv6 boots with %q", args)
	}
	sb, args := boots(false)
	if has(args) {
		t.Errorf("a guest without IPv6 boots with %q", args)
	}
	change := func(generation int64, on bool) {
		if _, err := r.agent.SetNetwork(t.Context(), sb.ID, policy(generation, on)); err != nil {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
	for i, c := range []struct {
		on   bool
		says string
	}{{true, `"network":{"ipv6":{"address":"fd57:`}, {false, `"network":{"ipv6":{}}`}} {
		change(int64(i+2), c.on)
		if told := string(<-r.driver.inits); !strings.Contains(told, c.says) {
			t.Errorf("with IPv6 %v it is told %s", c.on, told)
		}
		r.hasIPv6(sb, c.on)
	}
	r.driver.deaf = true
	change(4, true)
	<-r.driver.inits
	r.hasIPv6(sb, true)
	change(4, true) // nothing new, and nobody is told
	if _, err := r.agent.Pause(t.Context(), sb.ID); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		on   bool
		says string
	}{{false, `"ipv6":{}`}, {true, `"ipv6":{"address":"fd57:`}} {
		change(int64(i+5), c.on)
		if _, err := r.agent.Resume(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		if told := string(<-r.driver.resumes); !strings.Contains(told, c.says) || !strings.Contains(told, `"network":{"address":"10.`) {
			t.Errorf("with IPv6 %v it wakes with %s", c.on, told)
		}
		if _, err := r.agent.Pause(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.driver.inits) > 0 {
		t.Errorf("a guest that sleeps, or has nothing to change, is told %s", <-r.driver.inits)
	}
}

// hasIPv6 holds what is said of a sandbox against whether it has IPv6.
func (r *rig) hasIPv6(sb Sandbox, on bool) {
	r.t.Helper()
	n, err := r.agent.Network(sb.ID)
	if err != nil || n.IPv6.Address.IsValid() != on || (n.IPv6.Why != "") != on { // the rig's host has no way to the world
		r.t.Errorf("it has %+v, %v, want it to be %v", n.IPv6, err, on)
	}
	if p, known := r.agent.Names().Policy(netip.MustParseAddr(sb.Guest)); !known || p.IPv6 != on {
		r.t.Errorf("its names lead to IPv6: %v, want %v", p.IPv6, on)
	}
}
