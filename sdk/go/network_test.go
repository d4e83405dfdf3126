package wrenn

import (
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestNetworkPolicyOnTheWire(t *testing.T) {
	var bodies []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, r.Method+" "+r.URL.Path+" "+string(b))
		answer(w, http.StatusOK, strings.Replace(sandboxJSON, `"generation":3`,
			`"generation":3,"network":{"internet":"off","allow":["a.example"],"deny":[],"limits":{"upload_mbit":1,"download_mbit":0,"packets_per_second":0,"connections":0,"connections_per_second":0},"generation":2}`, 1))
	})
	made, err := c.CreateSandbox(t.Context(), CreateSandboxRequest{Template: "minimal", Network: &NetworkPolicy{Internet: Off, Allow: []string{"a.example"}}})
	if err != nil || !reflect.DeepEqual(made.Network, NetworkPolicy{Internet: Off, Allow: []string{"a.example"}, Deny: []string{}, Limits: &NetworkLimits{UploadMbit: 1}, Generation: 2}) {
		t.Errorf("%+v, %v", made, err)
	}
	if _, err := c.SetNetwork(t.Context(), testID, NetworkPolicy{Deny: []string{}, Generation: 2}); err != nil {
		t.Error(err)
	}
	want := []string{
		`POST /v1/sandboxes {"template":"minimal","network":{"internet":"off","allow":["a.example"]}}`,
		`PATCH /v1/sandboxes/sb-01234567 {"network":{"deny":[],"generation":2}}`,
	}
	if !reflect.DeepEqual(bodies, want) {
		t.Errorf("sent %q", bodies)
	}
	for _, err := range []error{
		func() error { _, err := c.SetNetwork(t.Context(), "../x", NetworkPolicy{}); return err }(),
		func() error {
			_, err := c.SetNetwork(t.Context(), testID, NetworkPolicy{Allow: []string{"\xff"}})
			return err
		}(),
		func() error {
			_, err := c.CreateSandbox(t.Context(), CreateSandboxRequest{Template: "x", Network: &NetworkPolicy{Deny: []string{"\xff"}}})
			return err
		}(),
	} {
		if err == nil {
			t.Error("a request that cannot be was sent")
		}
	}
}

func TestNetworkStateAndRefusals(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/sandboxes/sb-01234567/network":
			answer(w, http.StatusOK, `{"policy":{"internet":"on","generation":2},"in_force":true,"generation_in_force":2,"ipv6":{"address":"fd57::2","why":null},"counters":{"sent_packets":3,"dropped_packets":{"denied":1}}}`)
		case "/v1/sandboxes/sb-01234567/network/refusals":
			answer(w, http.StatusOK, `{"items":[{"protocol":"dns","address":null,"port":null,"name":"a.example","rule":"name_denied","why":"w","count":4}],"forgotten":1}`)
		default:
			t.Errorf("asked for %s", r.URL.Path)
		}
	})
	state, err := c.Network(t.Context(), testID)
	if err != nil || !state.InForce || state.IPv6.Address != "fd57::2" || state.IPv6.Why != "" || state.Counters.SentPackets != 3 || state.Counters.DroppedPackets["denied"] != 1 {
		t.Errorf("%+v, %v", state, err)
	}
	refusals, err := c.NetworkRefusals(t.Context(), testID)
	if err != nil || refusals.Forgotten != 1 || len(refusals.Items) != 1 || refusals.Items[0].Name != "a.example" || refusals.Items[0].Count != 4 {
		t.Errorf("%+v, %v", refusals, err)
	}
}
