package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

type networkAnswer struct {
	ID      string      `json:"id"`
	Network networkView `json:"network"`
}

func TestNetworkPolicy(t *testing.T) {
	r := newRig(t, Limits{})
	plain := decoded[networkAnswer](t, r.call("POST", "/v1/sandboxes", `{"template":"minimal"}`), http.StatusCreated)
	if want := (networkView{Internet: "on", IPv6: "off", Allow: []string{}, Deny: []string{}, Generation: 1}); !cmp.Equal(plain.Network, want) {
		t.Errorf("the default is %+v", plain.Network)
	}
	made := decoded[networkAnswer](t, r.call("POST", "/v1/sandboxes",
		`{"template":"minimal","network":{"internet":"off","allow":["PyPI.org","192.0.2.7","*.bücher.example"],"limits":{"upload_mbit":5}}}`), http.StatusCreated)
	want := networkView{Internet: "off", IPv6: "off", Allow: []string{"pypi.org", "192.0.2.7/32", "*.xn--bcher-kva.example"}, Deny: []string{}, Generation: 1}
	want.Limits.UploadMbit = 5
	if diff := cmp.Diff(want, made.Network); diff != "" {
		t.Error(diff)
	}
	path := "/v1/sandboxes/" + made.ID
	patched := decoded[networkAnswer](t, r.call("PATCH", path, `{"network":{"deny":["evil.example"],"limits":{"connections":9},"generation":1}}`), http.StatusOK)
	want.Deny, want.Generation, want.Limits.Connections = []string{"evil.example"}, 2, 9
	if diff := cmp.Diff(want, patched.Network); diff != "" {
		t.Error(diff)
	}
	cleared := decoded[networkAnswer](t, r.call("PATCH", path, `{"network":{"internet":"on","allow":[]}}`), http.StatusOK)
	want.Internet, want.Allow, want.Generation = "on", []string{}, 3
	if diff := cmp.Diff(want, cleared.Network); diff != "" {
		t.Error(diff)
	}
	if got := decoded[networkAnswer](t, r.call("GET", path, ""), http.StatusOK); !cmp.Equal(got, cleared) {
		t.Errorf("GET shows %+v", got.Network)
	}
	ipv6 := decoded[networkAnswer](t, r.call("PATCH", path, `{"network":{"ipv6":"on","allow":["2600:DB8::/32","2600::7"]}}`), http.StatusOK)
	want.IPv6, want.Allow, want.Generation = "on", []string{"2600:db8::/32", "2600::7/128"}, 4
	if diff := cmp.Diff(want, ipv6.Network); diff != "" {
		t.Error(diff)
	}
	if got := r.sim.Network(made.ID, nil).GetPolicy(); !got.GetIpv6() {
		t.Errorf("the host has %v", got)
	}
	r.call("PATCH", path, `{"network":{"ipv6":"off","allow":[]}}`)
	if got := r.sim.Network(made.ID, nil).GetPolicy(); got.GetIpv6() || !got.GetInternet() || got.GetGeneration() != 5 || got.GetLimits().GetUploadMbit() != 5 {
		t.Errorf("the host has %v", got)
	}
}

func TestNetworkStateAndRefusals(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	first := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	r.sim.Network(sb, func(n *pb.GetNetworkResponse) {
		n.Counters = &pb.NetworkCounters{SentPackets: 3, SentBytes: 180, ReceivedPackets: 1, ReceivedBytes: 60, DroppedPackets: map[string]uint64{"internet": 2}}
		n.Forgotten, n.Ipv6Address, n.Ipv6Why = 7, "fd57::2", "no route"
		n.Refusals = []*pb.NetworkRefusal{
			{FirstAt: timestamppb.New(first), LastAt: timestamppb.New(first.Add(time.Minute)), Protocol: "tcp", Address: "192.0.2.7", Port: 443, Rule: "internet", Why: "off", Count: 2},
			{FirstAt: timestamppb.New(first), LastAt: timestamppb.New(first), Protocol: "dns", Name: "evil.example", Rule: "name_denied", Why: "denied", Count: 1},
		}
	})
	state := r.call("GET", "/v1/sandboxes/"+sb+"/network", "")
	for _, part := range []string{`"in_force":true`, `"generation_in_force":1`, `"sent_bytes":180`, `"dropped_packets":{"internet":2}`, `"ipv6":{"address":"fd57::2","why":"no route"}`} {
		if state.status != http.StatusOK || !strings.Contains(string(state.body), part) {
			t.Errorf("%d %s lacks %s", state.status, state.body, part)
		}
	}
	refusals := r.call("GET", "/v1/sandboxes/"+sb+"/network/refusals", "")
	for _, part := range []string{`"address":"192.0.2.7","port":443,"name":null`, `"address":null,"port":null,"name":"evil.example"`, `"first_at":"2026-11-28T09:00:00.000Z"`, `"forgotten":7`} {
		if refusals.status != http.StatusOK || !strings.Contains(string(refusals.body), part) {
			t.Errorf("%d %s lacks %s", refusals.status, refusals.body, part)
		}
	}
	r.sim.Network(sb, func(n *pb.GetNetworkResponse) { n.Ipv6Address, n.Ipv6Why = "", "" })
	if state := r.call("GET", "/v1/sandboxes/"+sb+"/network", ""); !strings.Contains(string(state.body), `"ipv6":{"address":null,"why":null}`) {
		t.Errorf("without IPv6: %s", state.body)
	}
	r.sim.Network(sb, func(n *pb.GetNetworkResponse) { n.Ipv6Address = "here" })
	if state := r.call("GET", "/v1/sandboxes/"+sb+"/network", ""); state.status != http.StatusInternalServerError {
		t.Errorf("an address that is none: %d %s", state.status, state.body)
	}
	other := string(r.newKey("other"))
	for _, path := range []string{"/network", "/network/refusals"} {
		if a := r.call("GET", "/v1/sandboxes/"+sb+path, "", "X-API-Key", other); a.status != http.StatusNotFound {
			t.Errorf("another account reads %s: %d", path, a.status)
		}
	}
	if a := r.call("PATCH", "/v1/sandboxes/"+sb, `{"network":{"internet":"off"}}`, "X-API-Key", other); a.status != http.StatusNotFound {
		t.Errorf("another account changes the policy: %d", a.status)
	}
	r.call("DELETE", "/v1/sandboxes/"+sb, "")
	if a := r.call("GET", "/v1/sandboxes/"+sb+"/network", ""); a.status != http.StatusConflict {
		t.Errorf("of a sandbox that is gone: %d", a.status)
	}
}

func TestBadNetworkPolicies(t *testing.T) {
	r := newRig(t, Limits{})
	patch, create := "PATCH /v1/sandboxes/"+r.create().ID, "POST /v1/sandboxes"
	for body, c := range map[string]struct {
		status int
		code   models.Code
		says   string
	}{
		`{"network":5}`:                                                         {400, models.Invalid, "network must be an object"},
		`{"network":null}`:                                                      {400, models.Invalid, "network must not be null"},
		`{"network":{"intranet":"on"}}`:                                         {400, models.Invalid, `network: there is no member \"intranet\"`},
		`{"network":{"internet":true}}`:                                         {400, models.Invalid, "network.internet must be a string, not bool"},
		`{"network":{"ipv6":"yes"}}`:                                            {400, models.Invalid, "network.ipv6 must be"},
		`{"network":{"ipv6":"on","allow":["2002:a00::/24"]}}`:                   {400, models.Invalid, "6to4"},
		`{"network":{"ipv6":"on","allow":["fd13::/16"]}}`:                       {403, models.Forbidden, "fc00::/7"},
		`{"network":{"internet":"On"}}`:                                         {400, models.Invalid, "network.internet must be"},
		`{"network":{"allow":"example.com"}}`:                                   {400, models.Invalid, "network.allow must be an array of strings, not string"},
		`{"network":{"allow":null}}`:                                            {400, models.Invalid, "allow must not be null"},
		`{"network":{"allow":["a.example","b c"]}}`:                             {400, models.Invalid, "network.allow[1]: \\\"b c\\\" is no domain name: ' ' at character 2"},
		`{"network":{"deny":["2001:db8::1"]}}`:                                  {400, models.Invalid, "network.deny[0]: 2001:db8::1/128 is IPv6"},
		`{"network":{"allow":["169.254.169.254"]}}`:                             {400, models.Invalid, "169.254.0.0/16 (link-local addresses and cloud metadata)"},
		`{"network":{"allow":["10.0.0.0/8"]}}`:                                  {403, models.Forbidden, "10.0.0.0/8"},
		`{"network":{"allow":["a.example","A.EXAMPLE"]}}`:                       {400, models.Invalid, "network.allow[1]: a.example is there twice"},
		`{"network":{"limits":{"upload_mbit":-1}}}`:                             {400, models.Invalid, "network.limits.upload_mbit must be between"},
		`{"network":{"limits":{"upload_mbit":"1"}}}`:                            {400, models.Invalid, "network.limits.upload_mbit must be an integer, not string"},
		`{"network":{"limits":{"upload":1}}}`:                                   {400, models.Invalid, `network.limits: there is no member \"upload\"`},
		`{"network":{"limits":[]}}`:                                             {400, models.Invalid, "network.limits must be an object"},
		`{"network":{"internet":"on","internet":"off"}}`:                        {400, models.Invalid, `network: the member \"internet\" is there twice`},
		`{"network":{"deny":["` + strings.Repeat(`x.example","`, 300) + `y"]}}`: {400, models.Invalid, "network.deny must have at most 256 rules"},
	} {
		for _, what := range []string{patch, create} {
			method, path, _ := strings.Cut(what, " ")
			sent := body
			if what == create {
				sent = `{"template":"minimal",` + body[1:]
			}
			a := r.call(method, path, sent)
			got := decoded[errorAnswer](t, a, c.status).Error
			if got.Code != c.code || !strings.Contains(string(a.body), c.says) {
				t.Errorf("%s %s: %s", what, body, a.body)
			}
		}
	}
	for body, says := range map[string]string{
		`{}`:                            "changes nothing",
		`{"name":"x"}`:                  `no member \"name\"`,
		`{"network":{"generation":99}}`: "has generation 1, not 99",
	} {
		method, path, _ := strings.Cut(patch, " ")
		if a := r.call(method, path, body); a.status < 400 || !strings.Contains(string(a.body), says) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := r.call("POST", "/v1/sandboxes", `{"template":"minimal","network":{"generation":1}}`); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "PATCH") {
		t.Errorf("a generation at create: %d %s", a.status, a.body)
	}
	if got := r.sim.Network(strings.TrimPrefix(patch, "PATCH /v1/sandboxes/"), nil).GetPolicy().GetGeneration(); got != 1 {
		t.Errorf("bad requests changed the policy to generation %d", got)
	}
}

// TestNetworkNotInForce: what is recorded and not in force is said to be so.
func TestNetworkNotInForce(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	r.sim.OnNetwork(func(*pb.SetNetworkPolicyRequest) error { return models.Errorf(models.Unavailable, "busy") })
	a := r.call("PATCH", "/v1/sandboxes/"+sb, `{"network":{"internet":"off"}}`)
	if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "NOT in force yet") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if state := r.call("GET", "/v1/sandboxes/"+sb+"/network", ""); !strings.Contains(string(state.body), `"in_force":false`) {
		t.Errorf("%s", state.body)
	}
	r.sim.OnNetwork(nil)
	r.eventually("it is in force", func() bool {
		return strings.Contains(string(r.plain("GET", "/v1/sandboxes/"+sb+"/network", "").body), `"in_force":true`)
	})
}
