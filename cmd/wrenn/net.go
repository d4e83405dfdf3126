package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newNet(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "net SANDBOX",
		Short: "Show what a sandbox may reach, what it has sent, and what it was refused",
		Long: `Shows the network policy of a running or paused sandbox, its counters, and the journal of refusals: what was blocked, and why.
"wrenn net set" changes the policy.`,
		Example: `  wrenn net sb-0a1b2c3d
  wrenn net set sb-0a1b2c3d --internet off --allow pypi.org,files.pythonhosted.org`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.sandboxIDs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		return a.showNetwork(cmd.Context(), client, args[0], *asJSON)
	}
	cmd.AddCommand(newNetSet(a))
	return cmd
}

func newNetSet(a *app) *cobra.Command {
	var flags networkFlags
	cmd := &cobra.Command{
		Use:   "set SANDBOX",
		Short: "Change what a running or paused sandbox may reach",
		Long: `Changes the network policy of a running or paused sandbox; it is in force when the command ends. What no flag names stays as it is; a list
replaces the one that is there, and an empty one (--deny '') clears it.

What is always denied (other sandboxes, the host, cloud metadata) beats --allow, --allow beats --deny, --deny beats --internet; IPv6 needs --ipv6 on.`,
		Example: `  wrenn net set sb-0a1b2c3d --internet off --allow pypi.org,files.pythonhosted.org
  wrenn net set sb-0a1b2c3d --internet on --allow '' --deny '*.tracker.example,198.51.100.0/24'`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.sandboxIDs,
	}
	flags.declare(cmd.Flags())
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change := flags.policy(cmd.Flags())
		if change == nil {
			return models.Errorf(models.Invalid, "there is nothing to change").WithHint("--internet on|off, --ipv6 on|off, --allow LIST, --deny LIST or a limit")
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		if change.Limits != nil {
			if err := flags.keepLimits(cmd, client, args[0], change); err != nil {
				return err
			}
		}
		s, err := client.SetNetwork(cmd.Context(), args[0], *change)
		if err != nil {
			return fmt.Errorf("set the network policy: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, s.Network)
		}
		return printTable(a.stdout, []string{"internet", string(s.Network.Internet)}, policyRows(s.Network)[1:])
	}
	return cmd
}

func (a *app) showNetwork(ctx context.Context, client *wrenn.Client, id string, asJSON bool) error {
	state, err := client.Network(ctx, id)
	if err != nil {
		return fmt.Errorf("look up the network: %w", err)
	}
	refusals, err := client.NetworkRefusals(ctx, id)
	if err != nil {
		return fmt.Errorf("read what was refused: %w", err)
	}
	if asJSON {
		return printJSON(a.stdout, struct {
			*wrenn.NetworkState
			Refusals *wrenn.NetworkRefusals `json:"refusals"`
		}{state, refusals})
	}
	if err := printTable(a.stdout, []string{"id", id}, stateRows(state)); err != nil {
		return err
	}
	if len(refusals.Items) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return a.printRefusals(refusals)
}

func stateRows(s *wrenn.NetworkState) [][]string {
	inForce := "yes"
	if !s.InForce {
		inForce = fmt.Sprintf("NO: generation %d is; the service is about to change that", s.GenerationInForce)
	}
	rows := append(policyRows(s.Policy), [][]string{
		{"in force", inForce},
		{"sent", fmt.Sprintf("%d packets, %d bytes", s.Counters.SentPackets, s.Counters.SentBytes)},
		{"received", fmt.Sprintf("%d packets, %d bytes", s.Counters.ReceivedPackets, s.Counters.ReceivedBytes)},
	}...)
	if s.IPv6.Address != "" {
		rows = append(rows, []string{"IPv6 address", s.IPv6.Address})
	}
	if s.IPv6.Why != "" {
		rows = append(rows, []string{"IPv6", "reaches nothing: " + s.IPv6.Why})
	}
	for _, rule := range slices.Sorted(maps.Keys(s.Counters.DroppedPackets)) {
		rows = append(rows, []string{"dropped by " + rule, fmt.Sprintf("%d packets", s.Counters.DroppedPackets[rule])})
	}
	return rows
}

func policyRows(p wrenn.NetworkPolicy) [][]string {
	rows := [][]string{
		{"internet", string(p.Internet)}, {"ipv6", string(p.IPv6)}, {"allow", strings.Join(p.Allow, " ")}, {"deny", strings.Join(p.Deny, " ")},
		{"generation", strconv.FormatInt(p.Generation, 10)},
	}
	if p.Limits == nil {
		return rows
	}
	for _, l := range networkLimits {
		if value := *l.of(p.Limits); value != 0 {
			rows = append(rows, []string{"limit of " + l.name, fmt.Sprintf("%d %s", value, l.unit)})
		}
	}
	return rows
}

func (a *app) printRefusals(r *wrenn.NetworkRefusals) error {
	rows := make([][]string, len(r.Items))
	for i, item := range r.Items {
		rows[i] = []string{age(item.LastAt, time.Now()), strconv.FormatInt(item.Count, 10), item.Protocol, destination(item), item.Rule, item.Why}
	}
	if err := printTable(a.stdout, []string{"AGO", "COUNT", "PROTOCOL", "TO", "RULE", "WHY"}, rows); err != nil {
		return err
	}
	if r.Forgotten > 0 {
		fmt.Fprintf(a.stdout, "and %d before, which are forgotten\n", r.Forgotten)
	}
	return nil
}

func destination(r wrenn.NetworkRefusal) string {
	if r.Port != 0 {
		return net.JoinHostPort(r.Address, strconv.Itoa(r.Port))
	}
	return cmp.Or(r.Name, r.Address)
}
