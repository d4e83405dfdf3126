package wrenn

import (
	"context"
	"iter"
	"net/http"
	"slices"
	"time"
)

// Switch is on or off.
type Switch string

// The values of a Switch; "" in a request leaves what is there.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// NetworkPolicy says what a sandbox may reach: what is always denied beats Allow, Allow beats Deny, and Deny beats Internet.
//
// In a request what is zero is left out: of a new sandbox it is the default (all public addresses), of a changed one it stays. A list
// that is empty and not nil clears the one that is there.
type NetworkPolicy struct {
	Internet Switch         `json:"internet,omitzero"` // whether what no rule names is allowed
	IPv6     Switch         `json:"ipv6,omitzero"`     // whether any of it is by IPv6; without it off
	Allow    []string       `json:"allow,omitzero"`    // addresses and networks, domain names, *.name for all below one
	Deny     []string       `json:"deny,omitzero"`
	Limits   *NetworkLimits `json:"limits,omitzero"`
	// Generation grows by one with every change. In a change, if not 0, it is what the policy must have: else the error is Conflict.
	Generation int64 `json:"generation,omitzero"`
}

// NetworkLimits bound what a sandbox takes of its host's network. 0 means the host's default.
type NetworkLimits struct {
	UploadMbit           int `json:"upload_mbit"`            // a second, from the sandbox
	DownloadMbit         int `json:"download_mbit"`          // a second, to the sandbox
	PacketsPerSecond     int `json:"packets_per_second"`     // from the sandbox
	Connections          int `json:"connections"`            // at the same time
	ConnectionsPerSecond int `json:"connections_per_second"` // new ones
}

// NetworkState is what the host of a running sandbox tells of its network.
type NetworkState struct {
	Policy            NetworkPolicy   `json:"policy"`   // that is wanted
	InForce           bool            `json:"in_force"` // if not, an older one is, and the service is about to change that
	GenerationInForce int64           `json:"generation_in_force"`
	IPv6              NetworkIPv6     `json:"ipv6"`
	Counters          NetworkCounters `json:"counters"`
}

// NetworkIPv6 is what a sandbox has of IPv6.
type NetworkIPv6 struct {
	Address string `json:"address,omitempty"` // "" for none
	Why     string `json:"why,omitempty"`     // why the world is not reached by it, though the policy allows that; "" if it is, or must not be
}

// NetworkCounters are what a sandbox's network has carried since the sandbox was created.
type NetworkCounters struct {
	SentPackets     uint64            `json:"sent_packets"`
	SentBytes       uint64            `json:"sent_bytes"`
	ReceivedPackets uint64            `json:"received_packets"`
	ReceivedBytes   uint64            `json:"received_bytes"`
	DroppedPackets  map[string]uint64 `json:"dropped_packets"` // of the sandbox, by the rule that dropped them
}

// NetworkRefusals is the journal of what a sandbox was refused, the latest first.
type NetworkRefusals struct {
	Items     []NetworkRefusal `json:"items"`
	Forgotten int64            `json:"forgotten"` // refusals that are not in Items any more
}

// NetworkRefusal is what a sandbox was refused, and how often.
type NetworkRefusal struct {
	FirstAt  time.Time `json:"first_at"`
	LastAt   time.Time `json:"last_at"`
	Protocol string    `json:"protocol"`          // tcp, udp, icmp, icmpv6, dns, or the number of another one
	Address  string    `json:"address,omitempty"` // "" for a name
	Port     int       `json:"port,omitempty"`
	Name     string    `json:"name,omitempty"`
	Rule     string    `json:"rule"` // a word for what refused it
	Why      string    `json:"why"`  // what that means
	Count    int64     `json:"count"`
}

// SetNetwork changes what a running sandbox may reach, and returns the sandbox when the new policy is in force. An Unavailable error
// says that it is recorded and not in force yet: Network tells when it is. It is safe to repeat.
func (c *Client) SetNetwork(ctx context.Context, id string, change NetworkPolicy) (*Sandbox, error) {
	path, err := sandboxPath(id)
	if err != nil {
		return nil, err
	}
	if err := encodable("rules of a network policy", change.texts()); err != nil {
		return nil, err
	}
	var s Sandbox
	body := struct {
		Network NetworkPolicy `json:"network"`
	}{change}
	if err := c.call(ctx, http.MethodPatch, path, body, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

func (p NetworkPolicy) texts() iter.Seq[string] {
	return slices.Values(append(slices.Clone(p.Allow), p.Deny...))
}

// Network asks the host of a running sandbox about its network.
func (c *Client) Network(ctx context.Context, id string) (*NetworkState, error) {
	path, err := sandboxPath(id, "network")
	if err != nil {
		return nil, err
	}
	var n NetworkState
	if err := c.call(ctx, http.MethodGet, path, nil, &n); err != nil {
		return nil, err
	}
	return &n, nil
}

// NetworkRefusals returns what a running sandbox was refused on the network, and why.
func (c *Client) NetworkRefusals(ctx context.Context, id string) (*NetworkRefusals, error) {
	path, err := sandboxPath(id, "network", "refusals")
	if err != nil {
		return nil, err
	}
	var r NetworkRefusals
	if err := c.call(ctx, http.MethodGet, path, nil, &r); err != nil {
		return nil, err
	}
	return &r, nil
}
