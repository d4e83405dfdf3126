package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// networkFlags are those of a network policy.
type networkFlags struct {
	internet    string
	ipv6        string
	allow, deny []string
	limits      wrenn.NetworkLimits
}

// networkLimit is a limit of a network policy: how it is given and shown.
type networkLimit struct {
	flag, usage string
	name, unit  string
	of          func(*wrenn.NetworkLimits) *int
}

// networkLimits are all of them.
var networkLimits = []networkLimit{
	{"upload-mbit", "most megabits a second from the sandbox", "upload", "Mbit/s", func(l *wrenn.NetworkLimits) *int { return &l.UploadMbit }},
	{"download-mbit", "most megabits a second to the sandbox", "download", "Mbit/s", func(l *wrenn.NetworkLimits) *int { return &l.DownloadMbit }},
	{"packets-per-second", "most packets a second from the sandbox", "packets", "a second", func(l *wrenn.NetworkLimits) *int { return &l.PacketsPerSecond }},
	{"connections", "most connections at the same time", "connections", "at a time", func(l *wrenn.NetworkLimits) *int { return &l.Connections }},
	{"connections-per-second", "most new connections a second", "new connections", "a second", func(l *wrenn.NetworkLimits) *int { return &l.ConnectionsPerSecond }},
}

func (n *networkFlags) declare(f *pflag.FlagSet) {
	f.StringVar(&n.internet, "internet", "", "on or off: whether what no rule names may be reached")
	f.StringVar(&n.ipv6, "ipv6", "", "on or off: whether any of it may be reached by IPv6")
	f.StringSliceVar(&n.allow, "allow", nil, "what may be reached: addresses and networks, domain names, *.name; separated by commas")
	f.StringSliceVar(&n.deny, "deny", nil, "what may not be reached")
	for _, l := range networkLimits {
		f.IntVar(l.of(&n.limits), l.flag, 0, l.usage+" (0: the host's default)")
	}
}

// policy returns what the flags ask for, nil when none of them is given.
func (n *networkFlags) policy(f *pflag.FlagSet) *wrenn.NetworkPolicy {
	var p wrenn.NetworkPolicy
	some := false
	given := func(name string) bool {
		some = some || f.Changed(name)
		return f.Changed(name)
	}
	if given("internet") {
		p.Internet = wrenn.Switch(n.internet)
	}
	if given("ipv6") {
		p.IPv6 = wrenn.Switch(n.ipv6)
	}
	if given("allow") {
		p.Allow = append([]string{}, n.allow...)
	}
	if given("deny") {
		p.Deny = append([]string{}, n.deny...)
	}
	for _, l := range networkLimits {
		if given(l.flag) {
			p.Limits = &n.limits
		}
	}
	if !some {
		return nil
	}
	return &p
}

// keepLimits gives those limits of change that no flag names the values that they have: all are sent, with 0 for what is not said.
// The change is then for the policy that they are of, and for no later one.
func (n *networkFlags) keepLimits(cmd *cobra.Command, client *wrenn.Client, id string, change *wrenn.NetworkPolicy) error {
	s, err := client.GetSandbox(cmd.Context(), id)
	if err != nil {
		return fmt.Errorf("look up the limits that stay: %w", err)
	}
	for _, l := range networkLimits {
		if s.Network.Limits != nil && !cmd.Flags().Changed(l.flag) {
			*l.of(change.Limits) = *l.of(s.Network.Limits)
		}
	}
	change.Generation = s.Network.Generation
	return nil
}
