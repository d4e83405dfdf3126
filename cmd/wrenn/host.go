package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newHost(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "host", Short: "For whoever runs the service: look at hosts, drain and remove them, let them join",
		Long: `A host is a machine that sandboxes run on. It is ready, draining (an operator has said so), quarantined (its creates have failed; it comes back by itself when a probe succeeds) or down (its
agent cannot be reached), and keeps what it holds in all of them.

These commands need a key with the scope hosts, or hosts:read to look, which no key of an account has unless the operator has made it so: control-plane key create --scopes hosts.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newHostLs(a), newHostShow(a), newHostDrain(a), newHostUndrain(a), newHostRm(a), newHostToken(a), newHostTokens(a), newHostRevoke(a), newHostAudit(a))
	return cmd
}

func newHostLs(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List hosts, newest first, what they have and what they hold", Args: cobra.NoArgs,
		Example: "  wrenn host ls --state down,quarantined",
	}
	states := cmd.Flags().StringSlice("state", nil, "only those in these states: ready, draining, quarantined, down")
	all := func(c *wrenn.Client, ctx context.Context) iter.Seq2[wrenn.Host, error] {
		return c.Hosts(ctx, hostStates(*states)...)
	}
	header := []string{"ID", "NAME", "STATE", "AGE", "RUNNING", "SLEEPING", "SNAPSHOTS", "VCPUS", "MEMORY MIB", "DISK MIB", "ADDRESS", "REASON"}
	return listing(a, cmd, "hosts", all, header, hostRow)
}

func hostStates(texts []string) []wrenn.HostState {
	states := make([]wrenn.HostState, len(texts))
	for i, text := range texts {
		states[i] = wrenn.HostState(text)
	}
	return states
}

func hostRow(h wrenn.Host) []string {
	count := func(n int) string { return fmt.Sprint(n) }
	return []string{
		h.ID, h.Name, string(h.State), age(h.StateSince, time.Now()), count(h.Sandboxes.Running), count(h.Sandboxes.Sleeping), count(h.Snapshots),
		promised(h.VCPUs), promised(h.MemoryMiB), promised(h.DiskMiB), h.Address, h.StateReason,
	}
}

// promised is what is promised of how much may be.
func promised(r wrenn.HostRoom) string {
	return fmt.Sprintf("%d/%d", r.Promised, int64(float64(r.Capacity)*r.Overcommit))
}

func newHostShow(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "show HOST-ID", Short: "Show all about a host, and how far its drain has come", Args: cobra.ExactArgs(1)}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		h, err := client.Host(cmd.Context(), args[0])
		if err != nil {
			return fmt.Errorf("look up host: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, h)
		}
		return printTable(a.stdout, []string{"id", h.ID}, hostRows(h))
	}
	return cmd
}

func hostRows(h *wrenn.Host) [][]string {
	var warm, cold []string
	for _, t := range h.Templates {
		if t.Warm {
			warm = append(warm, t.Name)
		} else {
			cold = append(cold, t.Name)
		}
	}
	rows := [][]string{
		{"name", h.Name}, {"address", h.Address}, {"state", string(h.State)}, {"reason", h.StateReason}, {"since", stamp(h.StateSince)},
		{"sandboxes", fmt.Sprintf("%d running, %d sleeping", h.Sandboxes.Running, h.Sandboxes.Sleeping)}, {"snapshots", fmt.Sprint(h.Snapshots)},
		{"vcpus", roomText(h.VCPUs)}, {"memory MiB", roomText(h.MemoryMiB)}, {"disk MiB", roomText(h.DiskMiB)},
		{"warm templates", strings.Join(warm, ", ")}, {"others", strings.Join(cold, ", ")},
		{"agent", h.AgentVersion}, {"driver", strings.TrimSpace(h.Driver + " " + h.DriverVersion)}, {"accelerator", h.Accelerator}, {"object store", yesNo(h.ObjectStore)},
		{"last seen", stamp(h.LastSeenAt)}, {"created", stamp(h.CreatedAt)}, {"joined", stamp(h.JoinedAt)}, {"certificate until", stamp(h.CertificateUntil)},
	}
	if h.Drain != nil {
		rows = slices.Insert(rows, 5, []string{"drain", drainText(*h.Drain)})
	}
	return rows
}

func roomText(r wrenn.HostRoom) string {
	return fmt.Sprintf("%d promised of %d (%d times %g)", r.Promised, int64(float64(r.Capacity)*r.Overcommit), r.Capacity, r.Overcommit)
}

func drainText(d wrenn.HostDrain) string {
	if d.Done && d.Staying == 0 {
		return "done: no sandbox is left"
	}
	return fmt.Sprintf("%d sandboxes have to leave, %d stay", d.Leaving, d.Staying)
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}
