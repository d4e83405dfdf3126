package api

import (
	"net/http"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// networkRequest is the schema NetworkChange, and without generation the schema NetworkPolicy.
type networkRequest struct {
	Internet   *string               `json:"internet"`
	IPv6       *string               `json:"ipv6"`
	Allow      *[]string             `json:"allow"`
	Deny       *[]string             `json:"deny"`
	Limits     *networkLimitsRequest `json:"limits"`
	Generation *int64                `json:"generation"`
}

// networkLimitsRequest is the schema NetworkLimits.
type networkLimitsRequest struct {
	UploadMbit           *int `json:"upload_mbit"`
	DownloadMbit         *int `json:"download_mbit"`
	PacketsPerSecond     *int `json:"packets_per_second"`
	Connections          *int `json:"connections"`
	ConnectionsPerSecond *int `json:"connections_per_second"`
}

// UnmarshalJSON is as strict with members as decodeJSON.
func (n *networkRequest) UnmarshalJSON(b []byte) error {
	type plain networkRequest
	return unmarshalMember("network", b, (*plain)(n))
}

// UnmarshalJSON is as strict with members as decodeJSON.
func (l *networkLimitsRequest) UnmarshalJSON(b []byte) error {
	type plain networkLimitsRequest
	return unmarshalMember("network.limits", b, (*plain)(l))
}

// change returns what is asked for.
func (n networkRequest) change() (c models.NetworkChange, err error) {
	if c.Internet, err = isOn("internet", n.Internet); err != nil {
		return c, err
	}
	if c.IPv6, err = isOn("ipv6", n.IPv6); err != nil {
		return c, err
	}
	if c.Allow, err = destinations("allow", n.Allow); err != nil {
		return c, err
	}
	if c.Deny, err = destinations("deny", n.Deny); err != nil {
		return c, err
	}
	if n.Limits != nil {
		c.Limits = models.NetworkLimitsChange(*n.Limits)
	}
	c.Generation = n.Generation
	return c, nil
}

// isOn reads a switch; nil stays nil.
func isOn(name string, text *string) (*bool, error) {
	if text == nil {
		return nil, nil
	}
	on := *text == "on"
	if !on && *text != "off" {
		return nil, models.Errorf(models.Invalid, "network.%s must be \"on\" or \"off\", not %q", name, *text)
	}
	return &on, nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func destinations(list string, texts *[]string) (*[]models.Destination, error) {
	if texts == nil {
		return nil, nil
	}
	rules, err := models.ParseDestinations(list, *texts)
	return &rules, err
}

// newNetwork returns the policy of a sandbox that is to be created.
func (n *networkRequest) newNetwork() (models.NetworkPolicy, error) {
	if n == nil {
		return models.DefaultNetwork(), nil
	}
	if n.Generation != nil {
		return models.NetworkPolicy{}, models.Errorf(models.Invalid, "network.generation is no part of a new sandbox").
			WithHint("it is for PATCH: the generation that the policy must have to be changed")
	}
	change, err := n.change()
	return change.Of(models.DefaultNetwork()), err
}

// patchRequest is the schema SandboxChange.
type patchRequest struct {
	Network   *networkRequest    `json:"network"`
	Lifecycle *lifecycleRequest  `json:"lifecycle"`
	Metadata  *map[string]string `json:"metadata"`
}

func (s *Server) changeSandbox(w http.ResponseWriter, r *http.Request) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	var in patchRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	sb, err := s.change(r, sbID, in)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, view(sb))
	return nil
}

// change makes the changes of a request, after it has read all of them.
func (s *Server) change(r *http.Request, sbID id.Sandbox, in patchRequest) (sb models.Sandbox, err error) {
	if in == (patchRequest{}) {
		return sb, models.Errorf(models.Invalid, "the request changes nothing").WithHint("what can be changed: network, lifecycle, metadata")
	}
	lifecycle, err := in.Lifecycle.change()
	if err != nil {
		return sb, err
	}
	var network models.NetworkChange
	if in.Network != nil {
		if network, err = in.Network.change(); err != nil {
			return sb, err
		}
	}
	if in.Metadata != nil {
		if err := checkMetadata(*in.Metadata); err != nil {
			return sb, err
		}
		sb, err = s.Controller.SetMetadata(r.Context(), by(r), sbID, *in.Metadata)
	}
	if err == nil && in.Lifecycle != nil {
		sb, err = s.Controller.SetLifecycle(r.Context(), by(r), sbID, lifecycle)
	}
	if err == nil && in.Network != nil {
		sb, err = s.Controller.SetNetwork(r.Context(), by(r), sbID, network)
	}
	return sb, err
}

// networkView is the schema Network.
type networkView struct {
	Internet   string            `json:"internet"`
	IPv6       string            `json:"ipv6"`
	Allow      []string          `json:"allow"`
	Deny       []string          `json:"deny"`
	Limits     networkLimitsView `json:"limits"`
	Generation int64             `json:"generation"`
}

type networkLimitsView struct {
	UploadMbit           int `json:"upload_mbit"`
	DownloadMbit         int `json:"download_mbit"`
	PacketsPerSecond     int `json:"packets_per_second"`
	Connections          int `json:"connections"`
	ConnectionsPerSecond int `json:"connections_per_second"`
}

func viewOfNetwork(p models.NetworkPolicy) networkView {
	return networkView{
		Internet: onOff(p.Internet), IPv6: onOff(p.IPv6), Allow: models.DestinationTexts(p.Allow), Deny: models.DestinationTexts(p.Deny),
		Limits: networkLimitsView(p.Limits), Generation: p.Generation,
	}
}

// networkStateView is the schema NetworkState.
type networkStateView struct {
	Policy     networkView         `json:"policy"`
	InForce    bool                `json:"in_force"`
	Generation int64               `json:"generation_in_force"`
	IPv6       networkIPv6View     `json:"ipv6"`
	Counters   networkCountersView `json:"counters"`
}

type networkIPv6View struct {
	Address *string `json:"address"`
	Why     *string `json:"why"`
}

type networkCountersView struct {
	SentPackets     uint64            `json:"sent_packets"`
	SentBytes       uint64            `json:"sent_bytes"`
	ReceivedPackets uint64            `json:"received_packets"`
	ReceivedBytes   uint64            `json:"received_bytes"`
	Dropped         map[string]uint64 `json:"dropped_packets"`
}

func (s *Server) getNetwork(w http.ResponseWriter, r *http.Request) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	n, err := s.Controller.Network(r.Context(), by(r).Account, sbID)
	if err != nil {
		return err
	}
	v := networkStateView{
		Policy: viewOfNetwork(n.Sandbox.Network), InForce: n.InForce(), Generation: n.Generation,
		IPv6: networkIPv6View{Why: orNull(n.IPv6.Why)}, Counters: networkCountersView(n.Counters),
	}
	if n.IPv6.Address.IsValid() {
		v.IPv6.Address = orNull(n.IPv6.Address.String())
	}
	if v.Counters.Dropped == nil {
		v.Counters.Dropped = map[string]uint64{}
	}
	s.writeJSON(w, http.StatusOK, v)
	return nil
}

// refusalView is the schema NetworkRefusal.
type refusalView struct {
	First    apiTime `json:"first_at"`
	Last     apiTime `json:"last_at"`
	Protocol string  `json:"protocol"`
	Address  *string `json:"address"`
	Port     *int    `json:"port"`
	Name     *string `json:"name"`
	Rule     string  `json:"rule"`
	Why      string  `json:"why"`
	Count    int64   `json:"count"`
}

func (s *Server) listRefusals(w http.ResponseWriter, r *http.Request) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	n, err := s.Controller.Network(r.Context(), by(r).Account, sbID)
	if err != nil {
		return err
	}
	items := make([]refusalView, len(n.Refusals.Items))
	for i, refused := range n.Refusals.Items {
		items[i] = viewOfRefusal(refused)
	}
	s.writeJSON(w, http.StatusOK, map[string]any{"items": items, "forgotten": n.Refusals.Forgotten})
	return nil
}

func viewOfRefusal(r models.NetworkRefusal) refusalView {
	v := refusalView{
		First: apiTime(r.First), Last: apiTime(r.Last), Protocol: r.Protocol,
		Name: orNull(r.Name), Rule: r.Rule, Why: r.Why, Count: r.Count,
	}
	if r.To.IsValid() {
		v.Address, v.Port = orNull(r.To.Addr().String()), orNull(int(r.To.Port()))
	}
	return v
}
