package agent

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/dns"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func allowing(t *testing.T, generation int64, allow ...string) models.NetworkPolicy {
	t.Helper()
	rules, err := models.ParseDestinations("allow", allow)
	if err != nil {
		t.Fatal(err)
	}
	return models.NetworkPolicy{Generation: generation, Allow: rules}
}

func (r *rig) createWith(p models.NetworkPolicy) Sandbox {
	r.t.Helper()
	sb, err := r.agent.Create(r.t.Context(), Request{
		ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128}, Network: p,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return sb
}

// TestNetworkPolicySurvives: the policy in force is the newest, also after the agent was killed and started again.
func TestNetworkPolicySurvives(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(allowing(t, 1, "a.example"))
	newest := allowing(t, 3, "b.example", "192.0.2.0/24")
	for _, c := range []struct {
		policy models.NetworkPolicy
		want   int64
	}{{newest, 3}, {newest, 3}, {allowing(t, 2, "old.example"), 3}} {
		if got, err := r.agent.SetNetwork(t.Context(), sb.ID, c.policy); err != nil || got != c.want {
			t.Errorf("generation %d gave %d, %v", c.policy.Generation, got, err)
		}
	}
	r.close()
	r.open()
	if v, err := r.agent.Sandbox(sb.ID); err != nil || !v.Network.Equal(newest) || v.Network.Generation != 3 {
		t.Errorf("after a restart: %+v, %v", v.Network, err)
	}
	if got, err := r.agent.SetNetwork(t.Context(), sb.ID, allowing(t, 4, "c.example")); err != nil || got != 4 {
		t.Errorf("after a restart: %d, %v", got, err)
	}
}

// TestNetworkPolicyNotInForceIsUndone: after an error the policy before holds, in the record too.
func TestNetworkPolicyNotInForceIsUndone(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(allowing(t, 1, "a.example"))
	if err := r.net.Close(context.Background(), false); err != nil { // nothing can be put in force any more
		t.Fatal(err)
	}
	if _, err := r.agent.SetNetwork(t.Context(), sb.ID, allowing(t, 2)); err == nil {
		t.Error("a policy is in force on a network that is closed")
	}
	r.close()
	r.open()
	if v, err := r.agent.Sandbox(sb.ID); err != nil || v.Network.Generation != 1 {
		t.Errorf("%+v, %v", v.Network, err)
	}
}

// TestNetworkPolicyIsEnforcedAtAdoption: an agent that was killed between the record of a policy and its enforcement comes back to the
// record; the one before holds until then.
func TestNetworkPolicyIsEnforcedAtAdoption(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(allowing(t, 1, "192.0.2.0/24"))
	if rules := r.ruleset(); !strings.Contains(rules, "192.0.2.0") {
		t.Fatalf("the host does not know the policy:\n%s", rules)
	}
	r.close()
	rec, _, err := readRecord(r.agent.dir(sb.ID))
	newest := allowing(t, 2, "198.51.100.0/24")
	rec.Network = &newest
	if err != nil || rec.write(r.agent.dir(sb.ID)) != nil {
		t.Fatal("the record cannot be changed", err)
	}
	r.open()
	if rules := r.ruleset(); !strings.Contains(rules, "198.51.100.0") || strings.Contains(rules, "192.0.2.0") {
		t.Errorf("after the adoption:\n%s", rules)
	}
}

// TestNetworkPolicyIsRecordedFirst: what cannot be recorded is not put in force, so that no crash brings an older policy back.
func TestNetworkPolicyIsRecordedFirst(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(allowing(t, 1, "192.0.2.0/24"))
	folder := r.agent.dir(sb.ID)
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.agent.SetNetwork(t.Context(), sb.ID, allowing(t, 2, "198.51.100.0/24")); err == nil {
		t.Error("a policy that is not recorded is said to be in force")
	}
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	if rules := r.ruleset(); !strings.Contains(rules, "192.0.2.0") || strings.Contains(rules, "198.51.100.0") {
		t.Errorf("after a policy that was not recorded:\n%s", rules)
	}
	if v, err := r.agent.Sandbox(sb.ID); err != nil || v.Network.Generation != 1 {
		t.Errorf("%+v, %v", v.Network, err)
	}
}

// ruleset is what nft(8) lists of the rig's host, without what it counts.
func (r *rig) ruleset() string {
	r.t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		testlane.Missing(r.t, "needs nft (package nftables)")
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(r.t.Context(), nft, "-s", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = netns.Start(r.netns, cmd); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		r.t.Fatalf("nft: %v\n%s", err, &out)
	}
	return out.String()
}

// TestOldRecordHasTheDefault: an agent that knew of no policies left a sandbox with the internet.
func TestOldRecordHasTheDefault(t *testing.T) {
	if p := (record{}).policy(); !p.Equal(models.DefaultNetwork()) || p.Generation != 0 {
		t.Errorf("%+v", p)
	}
}

func TestBadNetworkPolicies(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(models.DefaultNetwork())
	if _, err := r.agent.SetNetwork(t.Context(), sb.ID, allowing(t, 2, "169.254.169.254")); models.CodeOf(err) != models.Invalid {
		t.Errorf("metadata: %v", err)
	}
	if _, err := r.agent.Create(t.Context(), Request{ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128}, Network: allowing(t, 1, "127.0.0.1")}); models.CodeOf(err) != models.Invalid {
		t.Errorf("loopback at create: %v", err)
	}
	if _, err := r.agent.SetNetwork(t.Context(), "sb-ffffffff", allowing(t, 2)); models.CodeOf(err) != models.NotFound {
		t.Errorf("a sandbox that is not there: %v", err)
	}
}

// TestPinsFollowThePolicy: no address is pinned under a policy that is not in force any more, and of those that were, the ones stay
// whose names are still allowed.
func TestPinsFollowThePolicy(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(allowing(t, 1, "a.example", "b.example"))
	host := r.agent.Names()
	v, _ := r.agent.Sandbox(sb.ID)
	old, known := host.Policy(netip.MustParseAddr(v.Guest))
	if !known || old.Sandbox != sb.ID || !host.Holds(sb.ID) {
		t.Fatalf("the sandbox at %s is %+v", v.Guest, old)
	}
	for name, addr := range map[string]string{"a.example": "192.0.2.1", "b.example": "192.0.2.2"} {
		if err := host.Pin(t.Context(), old, name, []netip.Addr{netip.MustParseAddr(addr)}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.agent.SetNetwork(t.Context(), sb.ID, allowing(t, 2, "b.example")); err != nil {
		t.Fatal(err)
	}
	if err := host.Pin(t.Context(), old, "a.example", []netip.Addr{netip.MustParseAddr("192.0.2.1")}, time.Minute); !errors.Is(err, dns.ErrChanged) {
		t.Errorf("pinned under an old policy: %v", err)
	}
	s, err := r.agent.find(sb.ID)
	if err != nil {
		t.Fatal(err)
	}
	if left := s.pins.allowed(s.policy(), time.Now()); len(left) != 1 || left[0].Name != "b.example" || left[0].Addr.String() != "192.0.2.2" {
		t.Errorf("pinned are %v", left)
	}
	if _, known := host.Policy(netip.MustParseAddr("10.0.0.254")); known {
		t.Error("an address of nobody has a policy")
	}
}

// TestPinsSurviveAKill: an agent that is killed forgets nothing of what names have let in: the policy that changes next takes back what it denies,
// and no more. Nothing is written when it ends, so that its end here is as good as one by force.
func TestPinsSurviveAKill(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(allowing(t, 1, "a.example", "b.example"))
	v, _ := r.agent.Sandbox(sb.ID)
	p, _ := r.agent.Names().Policy(netip.MustParseAddr(v.Guest))
	for name, addr := range map[string]string{"a.example": "192.0.2.1", "b.example": "192.0.2.2"} {
		if err := r.agent.Names().Pin(t.Context(), p, name, []netip.Addr{netip.MustParseAddr(addr)}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	pinned := func() (list []string) {
		all, err := r.net.Pins(t.Context(), sb.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			list = append(list, p.Name+" "+p.Addr.String())
		}
		slices.Sort(list)
		return list
	}
	r.close()
	r.open()
	if got := pinned(); !slices.Equal(got, []string{"a.example 192.0.2.1", "b.example 192.0.2.2"}) {
		t.Errorf("after a kill: %q", got)
	}
	if _, err := r.agent.SetNetwork(t.Context(), sb.ID, allowing(t, 2, "b.example", "c.example")); err != nil {
		t.Fatal(err)
	}
	if got := pinned(); !slices.Equal(got, []string{"b.example 192.0.2.2"}) {
		t.Errorf("after the next policy: %q", got)
	}
	// Killed between the record of a policy and its enforcement.
	r.close()
	rec, _, err := readRecord(r.agent.dir(sb.ID))
	newest := allowing(t, 3, "b.example", "198.51.100.0/24")
	rec.Network = &newest
	if err != nil || rec.write(r.agent.dir(sb.ID)) != nil {
		t.Fatal("the record cannot be changed", err)
	}
	r.open()
	if got := pinned(); !slices.Equal(got, []string{"b.example 192.0.2.2"}) {
		t.Errorf("after an adoption under another policy: %q", got)
	}
	if rules := r.ruleset(); !strings.Contains(rules, `comment "b.example"`) {
		t.Errorf("nft does not tell the name:\n%s", rules)
	}
}

func TestPinsAreBounded(t *testing.T) {
	var p pins
	now := time.Now()
	p.add("old.example", []netip.Addr{netip.MustParseAddr("192.0.2.1")}, now.Add(-time.Second), now)
	for i := range 2 * maxPinned {
		p.add("a.example", []netip.Addr{netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})}, now.Add(time.Minute), now)
	}
	if len(p.of) > maxPinned {
		t.Errorf("%d are remembered", len(p.of))
	}
	if _, there := p.of[pin{"old.example", netip.MustParseAddr("192.0.2.1")}]; there {
		t.Error("what has ended is remembered")
	}
}

// TestJournalSurvivesTheAgent: what was refused is known after a restart, and goes with the sandbox.
func TestJournalSurvivesTheAgent(t *testing.T) {
	r := newRig(t)
	sb := r.createWith(models.DefaultNetwork())
	r.agent.Names().Refused(dns.Refusal{Sandbox: sb.ID, Name: "evil.example", Rule: dns.NameDenied, Why: "denied"})
	r.agent.Names().Refused(dns.Refusal{Sandbox: "sb-ffffffff", Name: "evil.example", Rule: dns.NameDenied}) // of nobody
	r.close()
	r.open()
	n, err := r.agent.Network(sb.ID)
	if err != nil || len(n.Refusals.Items) != 1 || n.Refusals.Items[0].Name != "evil.example" || n.Refusals.Items[0].Count != 1 {
		t.Errorf("%+v, %v", n.Refusals, err)
	}
	if _, err := r.agent.Destroy(t.Context(), sb.ID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.agent.journalPath(sb.ID)); err == nil {
		t.Error("the journal is left")
	}
}

// TestEveryRuleIsExplained: users read what the host's rules mean.
func TestEveryRuleIsExplained(t *testing.T) {
	for _, rule := range network.Rules {
		if whys[rule] == "" {
			t.Errorf("%s is not explained", rule)
		}
	}
	for rule := range whys {
		if !slices.Contains(network.Rules, rule) {
			t.Errorf("there is no rule %s", rule)
		}
	}
}

// TestRangesAgree: what the API calls private is what the network does.
func TestRangesAgree(t *testing.T) {
	var ours []netip.Prefix
	for _, r := range models.PrivateRanges {
		ours = append(ours, r.Prefix)
	}
	theirs := append(slices.Clone(network.PrivateRanges), network.PrivateRangesIPv6...)
	for _, list := range [][]netip.Prefix{ours, theirs} {
		slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	}
	if !slices.Equal(ours, theirs) {
		t.Errorf("models: %v\nnetwork: %v", ours, theirs)
	}
}
