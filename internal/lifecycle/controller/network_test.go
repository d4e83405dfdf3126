package controller

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// allowing is a change that allows these, with the internet off.
func allowing(t *testing.T, allow ...string) models.NetworkChange {
	t.Helper()
	rules, err := models.ParseDestinations("allow", allow)
	if err != nil {
		t.Fatal(err)
	}
	off := false
	return models.NetworkChange{Internet: &off, Allow: &rules}
}

// TestNetworkReachesTheHost: at create and when it changes; the answer comes when it is in force.
func TestNetworkReachesTheHost(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb, err := c.Create(t.Context(), r.request(), Request{Template: "minimal", Network: allowing(t, "a.example").Of(models.DefaultNetwork())})
	if err != nil {
		t.Fatal(err)
	}
	if p := r.sim.Network(string(sb.ID), nil).GetPolicy(); p.GetInternet() || p.GetGeneration() != 1 || strings.Join(p.GetAllow(), " ") != "a.example" {
		t.Errorf("the host was told %v", p)
	}
	on := true
	by := r.request()
	changed, err := c.SetNetwork(t.Context(), by, sb.ID, models.NetworkChange{Internet: &on})
	if err != nil || changed.Network.Generation != 2 || !changed.Network.Internet || len(changed.Network.Allow) != 1 {
		t.Fatalf("%+v, %v", changed.Network, err)
	}
	if p := r.sim.Network(string(sb.ID), nil).GetPolicy(); !p.GetInternet() || p.GetGeneration() != 2 {
		t.Errorf("the host was told %v", p)
	}
	told, err := c.Network(t.Context(), r.by.Account, sb.ID)
	if err != nil || !told.InForce() {
		t.Errorf("%+v, %v", told, err)
	}
	if audit, err := r.store.AuditLog(t.Context(), r.by.Account, 1); err != nil || audit[0].Action != "sandbox.network" || audit[0].Outcome != "ok" || audit[0].RequestID != string(by.Request) {
		t.Errorf("audit %+v, %v", audit, err)
	}
	one := int64(1)
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, models.NetworkChange{Internet: &on, Generation: &one}); models.CodeOf(err) != models.Conflict {
		t.Errorf("a change to a policy that is not there any more: %v", err)
	}
}

// TestNetworkNotInForce: when the host cannot be told the answer says so, and the reconciler goes on.
func TestNetworkNotInForce(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	var refuse atomic.Bool
	refuse.Store(true)
	r.sim.OnNetwork(func(*pb.SetNetworkPolicyRequest) error {
		if refuse.Load() {
			return models.Errorf(models.Unavailable, "the kernel is busy")
		}
		return nil
	})
	_, err := c.SetNetwork(t.Context(), r.request(), sb.ID, allowing(t, "a.example"))
	if models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), "NOT in force yet: the kernel is busy") {
		t.Errorf("%v", err)
	}
	if told, err := c.Network(t.Context(), r.by.Account, sb.ID); err != nil || told.InForce() || told.Sandbox.Network.Generation != 2 {
		t.Errorf("%+v, %v", told, err)
	}
	refuse.Store(false)
	r.eventually("the policy is in force", func() bool {
		told, err := c.Network(t.Context(), r.by.Account, sb.ID)
		return err == nil && told.InForce()
	})
	want := []string{"sandbox.network ok", "sandbox.network unavailable", "sandbox.network accepted"} // the latest first
	r.eventually("the audit log tells it", func() bool {
		audit, err := r.store.AuditLog(t.Context(), r.by.Account, len(want))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range audit {
			got = append(got, e.Action+" "+e.Outcome)
		}
		return slices.Equal(got, want) && audit[0].Actor == "system"
	})
}

// TestNetworkAfterAnAgentThatForgot: a host that comes back with an older policy is brought up to date.
func TestNetworkAfterAnAgentThatForgot(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.sim.Kill()
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, allowing(t, "a.example")); err == nil || !strings.Contains(err.Error(), "NOT in force") {
		t.Errorf("with the agent away: %v", err)
	}
	r.sim.Restart()
	r.eventually("the host has the policy", func() bool { return r.sim.Network(string(sb.ID), nil).GetPolicy().GetGeneration() == 2 })
}

func TestNetworkRefused(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	private := allowing(t, "10.9.0.0/16")
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal", Network: private.Of(models.DefaultNetwork())}); models.CodeOf(err) != models.Forbidden {
		t.Errorf("a private network at create: %v", err)
	}
	r.holds(0)
	sb := r.create(c)
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, private); models.CodeOf(err) != models.Forbidden {
		t.Errorf("a private network: %v", err)
	}
	c.PrivateNetworks = []netip.Prefix{netip.MustParsePrefix("10.8.0.0/15")}
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, private); err != nil {
		t.Errorf("a private network that is permitted: %v", err)
	}
	if _, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetNetwork(t.Context(), r.request(), sb.ID, private); models.CodeOf(err) != models.Precondition {
		t.Errorf("a sandbox that is gone: %v", err)
	}
	if _, err := c.Network(t.Context(), r.by.Account, sb.ID); models.CodeOf(err) != models.Precondition {
		t.Errorf("the network of a sandbox that is gone: %v", err)
	}
	other := r.request()
	other.Account = id.Account("acc-0000ffff")
	if _, err := c.SetNetwork(t.Context(), other, sb.ID, private); models.CodeOf(err) != models.NotFound {
		t.Errorf("another account: %v", err)
	}
}
